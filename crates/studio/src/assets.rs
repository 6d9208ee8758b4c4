//! The page: its files are part of the program.

/// The files of the page: path, type, contents.
pub const FILES: [(&str, &str, &str); 11] = [
    ("/", "text/html; charset=utf-8", include_str!("../web/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../web/style.css")),
    ("/app.js", JAVASCRIPT, include_str!("../web/app.js")),
    ("/page.js", JAVASCRIPT, include_str!("../web/page.js")),
    ("/runs.js", JAVASCRIPT, include_str!("../web/runs.js")),
    ("/generate.js", JAVASCRIPT, include_str!("../web/generate.js")),
    ("/edit.js", JAVASCRIPT, include_str!("../web/edit.js")),
    ("/bound.js", JAVASCRIPT, include_str!("../web/bound.js")),
    ("/understand.js", JAVASCRIPT, include_str!("../web/understand.js")),
    ("/uplot/uPlot.iife.min.js", JAVASCRIPT, include_str!("../web/uplot/uPlot.iife.min.js")),
    ("/uplot/uPlot.min.css", "text/css; charset=utf-8", include_str!("../web/uplot/uPlot.min.css")),
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_loads_nothing_from_elsewhere() {
        let bytes: usize = FILES.iter().map(|(.., text)| text.len()).sum();
        assert!(bytes < 300_000, "{bytes}");
        for (path, _, text) in FILES.iter().filter(|(path, ..)| !path.starts_with("/uplot")) {
            // Names of namespaces are no addresses.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for word in ["http://", "https://", "//cdn", "innerHTML", "eval(", "document.write"] {
                assert!(!text.contains(word), "{path}: {word}");
            }
        }
    }
}
