//! Decodes the written files with other libraries and compares them with the images, value by value.

use ddpm_sample::output::{Error, Output, sheet, write, write_folder};
use image::AnimationDecoder;
use image::codecs::gif::GifDecoder;
use model::images::{Images, to_u8};
use proptest::prelude::*;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

/// Images that differ in every value from their neighbours in each direction; `variant` tells frames apart.
fn images([n, height, width, channels]: [usize; 4], variant: usize) -> Images {
    let byte = |i: usize| ((i * 37 + i / 256 * 11 + variant * 53) % 256) as f32;
    let pixels = (0..n * height * width * channels).map(|i| byte(i) / 127.5 - 1.0).collect();
    Images::new([n, height, width, channels], pixels)
}

fn info() -> Vec<(String, String)> {
    [("Software", "ddpm"), ("command", "ddpm sample model -o ü.png"), ("note", "T = 1000 → 50")]
        .map(|(key, text)| (key.to_owned(), text.to_owned()))
        .to_vec()
}

fn at(images: &Images, image: usize, y: usize, x: usize) -> Vec<u8> {
    let begin = ((image * images.height + y) * images.width + x) * images.channels;
    to_u8(&images.pixels[begin..][..images.channels])
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A decoded frame: height, width, channels, bytes.
struct Decoded {
    height: usize,
    width: usize,
    channels: usize,
    bytes: Vec<u8>,
}

impl Decoded {
    fn at(&self, y: usize, x: usize) -> &[u8] {
        &self.bytes[(y * self.width + x) * self.channels..][..self.channels]
    }

    /// Compares every pixel with a grid of `columns`, its gap and enlargement.
    fn assert_is_grid(&self, images: &Images, columns: usize, gap: usize, factor: usize) {
        let rows = images.n.div_ceil(columns);
        let (cell_h, cell_w) = (images.height + gap, images.width + gap);
        assert_eq!(self.channels, images.channels);
        assert_eq!([self.height, self.width], [(rows * cell_h - gap) * factor, (columns * cell_w - gap) * factor]);
        for y in 0..self.height {
            for x in 0..self.width {
                let (py, px) = (y / factor, x / factor);
                let (image, iy, ix) = (py / cell_h * columns + px / cell_w, py % cell_h, px % cell_w);
                let outside = iy >= images.height || ix >= images.width || image >= images.n;
                let expected = if outside { vec![255; self.channels] } else { at(images, image, iy, ix) };
                assert_eq!(self.at(y, x), expected, "row {y}, column {x}");
            }
        }
    }
}

fn channels(color: png::ColorType) -> usize {
    match color {
        png::ColorType::Grayscale => 1,
        png::ColorType::Rgb => 3,
        png::ColorType::Rgba => 4,
        other => panic!("{other:?}"),
    }
}

/// A PNG's first image, as it is stored, and its text.
fn read_png(path: &Path) -> (Decoded, Vec<(String, String)>) {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap())).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    let (height, width, channels) = (frame.height as usize, frame.width as usize, channels(frame.color_type));
    let latin = reader.info().uncompressed_latin1_text.iter().map(|text| (text.keyword.clone(), text.text.clone()));
    let utf8 = reader.info().utf8_text.iter().map(|text| (text.keyword.clone(), text.get_text().unwrap()));
    let mut text: Vec<(String, String)> = latin.chain(utf8).collect();
    // The mark that keeps it out of training data.
    assert_eq!(text.remove(0), ("Software".to_owned(), "ddpm".to_owned()));
    (Decoded { height, width, channels, bytes }, text)
}

/// Frames with their delays in milliseconds.
fn read_gif(path: &Path) -> Vec<(Decoded, u32)> {
    let frames = GifDecoder::new(BufReader::new(File::open(path).unwrap())).unwrap().into_frames();
    let decoded = |frame: image::Frame| {
        let (delay, _) = frame.delay().numer_denom_ms();
        let rgb = image::DynamicImage::from(frame.into_buffer()).into_rgb8();
        let (height, width) = (rgb.height() as usize, rgb.width() as usize);
        (Decoded { height, width, channels: 3, bytes: rgb.into_raw() }, delay)
    };
    frames.map(|frame| decoded(frame.unwrap())).collect()
}

fn file(name: &str) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join(name);
    (folder, path)
}

fn write_as(path: &Path, animated: bool, images: &Images, frames: &[Images]) -> Result<(), Error> {
    write(&Output::parse(path, animated)?, images, frames, &info())
}

#[test]
fn bytes_survive_scaling_and_values_outside_are_clamped() {
    let all: Vec<f32> = (0..=255u8).map(|byte| f32::from(byte) / 127.5 - 1.0).collect();
    assert_eq!(to_u8(&all), (0..=255).collect::<Vec<u8>>());
    // A little less than half a step each way is still the same byte.
    assert_eq!(to_u8(&all.iter().map(|x| x + 0.49 / 127.5).collect::<Vec<_>>()), (0..=255).collect::<Vec<u8>>());
    assert_eq!(to_u8(&all.iter().map(|x| x - 0.49 / 127.5).collect::<Vec<_>>()), (0..=255).collect::<Vec<u8>>());
    // torch.tensor([0., 1.01, 7., -1.01, -1e9]).add(1).mul(127.5).clamp(0, 255).round()
    assert_eq!(to_u8(&[0.0, 1.01, 7.0, -1.01, -1e9, f32::INFINITY]), [128, 255, 255, 0, 0, 255]);
}

#[test]
fn a_path_says_what_is_written() {
    let folder = tempdir().unwrap();
    let dotted = folder.path().join("samples.png");
    fs::create_dir(&dotted).unwrap();
    let parse = |path: &str, animated| Output::parse(Path::new(path), animated);
    let (png, gif, upper) = (PathBuf::from("a/b.png"), PathBuf::from("b.gif"), PathBuf::from("B.PNG"));
    assert_eq!(parse("a/b.png", false).unwrap(), Output::Grid(png.clone()));
    assert_eq!(parse("a/b.png", true).unwrap(), Output::Animation(png));
    assert_eq!(parse("B.PNG", false).unwrap(), Output::Grid(upper));
    assert_eq!(parse("b.gif", false).unwrap(), Output::Animation(gif.clone()));
    assert_eq!(parse("b.gif", true).unwrap(), Output::Animation(gif));
    assert_eq!(parse("b.apng", false).unwrap(), Output::Animation("b.apng".into()));
    assert_eq!(parse("b.npz", false).unwrap(), Output::Npz("b.npz".into()));
    assert_eq!(parse("b.safetensors", false).unwrap(), Output::Safetensors("b.safetensors".into()));
    assert_eq!(parse("samples", false).unwrap(), Output::Folder("samples".into()));
    assert_eq!(parse("run.v2/", false).unwrap(), Output::Folder("run.v2/".into()));
    assert_eq!(Output::parse(&dotted, false).unwrap(), Output::Folder(dotted));

    let error = parse("run.v2", false).unwrap_err().to_string();
    for expected in ["run.v2", "a .v2 file", ".png", ".gif", ".npz", ".safetensors", "folder", "/"] {
        assert!(error.contains(expected), "{expected} in {error}");
    }
    for path in ["b.npz", "b.safetensors", "samples", "b.jpg"] {
        assert!(matches!(parse(path, true), Err(Error::Unsupported { .. })), "{path}");
    }
}

#[test]
fn what_cannot_be_written_is_known_before() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), "").unwrap();
    fs::create_dir(path("folder")).unwrap();
    let shape = [4, 8, 8, 3];
    let reason = |output: Output, shape| output.check_writable(shape).unwrap_err().to_string();

    let grid = Output::Grid(path("new/deep/a.png"));
    grid.check_writable(shape).unwrap();
    assert!(names(&path("new/deep")).is_empty(), "the check leaves nothing but the folder");
    Output::Folder(path("new/images")).check_writable(shape).unwrap();
    assert!(names(&path("new/images")).is_empty());

    let error = reason(Output::Npz(path("folder")), shape);
    assert!(error.contains("folder: is a folder, expected the name of a file"), "{error}");
    let error = reason(Output::Folder(path("file")), shape);
    assert!(error.contains("file: is a file, expected a folder"), "{error}");
    let error = reason(Output::Grid(path("file/deep/a.png")), shape);
    assert!(error.contains("file: is a file, expected a folder"), "{error}");

    for channels in [0, 2, 5] {
        let pictures = [grid.clone(), Output::Animation(path("a.gif")), Output::Folder(path("folder"))];
        for output in pictures {
            let error = reason(output, [4, 8, 8, channels]);
            assert!(error.contains(&format!("{channels} channels")) && error.contains(".npz"), "{error}");
        }
        Output::Npz(path("a.npz")).check_writable([4, 8, 8, channels]).unwrap();
    }
    // 254 rows and columns of 256 pixels, 2 apart, are 65530 pixels; one more is too long.
    grid.check_writable([254 * 254, 256, 256, 3]).unwrap();
    assert!(reason(grid.clone(), [254 * 254 + 1, 256, 256, 3]).contains("grid of 254x255 images of 256x256"));
    assert!(matches!(grid.check_writable([usize::MAX; 4]), Err(Error::GridTooLarge { .. })));
}

#[cfg(unix)]
#[test]
fn a_device_is_a_file() {
    Output::Npz("/dev/null".into()).check_writable([1, 1, 1, 1]).unwrap();
    write(&Output::Npz("/dev/null".into()), &images([1, 2, 2, 1], 0), &[], &[]).unwrap();
}

#[test]
fn large_images_are_laid_out_as_they_are() {
    let (_folder, path) = file("deep/down/grid.png");
    let images = images([5, 100, 80, 3], 0);
    write_as(&path, false, &images, &[]).unwrap();
    let (grid, text) = read_png(&path);
    grid.assert_is_grid(&images, 3, 2, 1);
    assert_eq!(text, info());
    assert_eq!(names(path.parent().unwrap()), ["grid.png"]);
}

#[test]
fn small_images_are_enlarged_until_the_picture_is_large() {
    let (_folder, path) = file("grid.png");
    // (N, side) -> (columns, gap, factor): 64/28 and 64/32 rounded up; 40·33 > 2000/2; 64 is enough.
    for (n, side, columns, gap, factor) in [(4, 28, 2, 1, 3), (3, 32, 2, 1, 2), (1600, 32, 40, 2, 1), (1, 64, 1, 2, 1)]
    {
        let images = images([n, side, side, 1], n);
        write_as(&path, false, &images, &[]).unwrap();
        read_png(&path).0.assert_is_grid(&images, columns, gap, factor);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_grid_decodes_to_its_images(n in 1usize..14, height in 1usize..70, width in 1usize..70,
                                      channels in prop::sample::select(vec![1usize, 3, 4])) {
        let (_folder, path) = file("grid.png");
        let images = images([n, height, width, channels], n);
        write_as(&path, false, &images, &[]).unwrap();
        let (grid, _) = read_png(&path);
        // Few images never reach 2000 pixels, so that the longer side decides.
        let factor = 64usize.div_ceil(height.max(width));
        let gap = if factor == 1 { 2 } else { 1 };
        let columns = (grid.width / factor + gap) / (width + gap);
        grid.assert_is_grid(&images, columns, gap, factor);
        // No empty row or column, and near to a square where there is a choice.
        prop_assert!(columns <= n);
        let rows = n.div_ceil(columns);
        prop_assert!(rows == 1 || (rows - 1) * height <= columns * width);
        prop_assert!(columns == 1 || (columns - 1) * width <= n.div_ceil(columns - 1) * height);
    }
}

#[test]
fn npz_is_openais() {
    let (_folder, path) = file("samples.npz");
    let images = images([3, 4, 5, 3], 0).with_labels(Some(vec![7, 0, 9]));
    write(&Output::Npz(path.clone()), &images, &[], &info()).unwrap();
    let set = data::open(&path, &data::ReadOptions::default()).unwrap();
    assert_eq!([set.len(), set.height(), set.width(), set.channels()], images.shape());
    assert_eq!(set.labels(), Some(&[7, 0, 9][..]));
    assert_eq!(set.read(0..3).unwrap(), to_u8(&images.pixels));
    // As numpy.savez writes it: stored, arr_0.npy and arr_1.npy, version 1.0 headers.
    let bytes = fs::read(&path).unwrap();
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("arr_0.npy") && has("'descr': '|u1', 'fortran_order': False, 'shape': (3, 4, 5, 3)"));
    assert!(has("arr_1.npy") && has("'descr': '<i8', 'fortran_order': False, 'shape': (3,)"));
}

#[test]
fn safetensors_keep_every_value() {
    let (_folder, path) = file("samples.safetensors");
    let mut images = images([2, 3, 4, 5], 0).with_labels(Some(vec![3, 1]));
    images.pixels[7] = -3.25;
    images.pixels[8] = f32::NAN;
    write(&Output::Safetensors(path.clone()), &images, &[], &info()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["note"], "T = 1000 → 50");
    let values = |name: &str| -> Vec<f32> {
        let bytes = tensors.tensor(name).unwrap().data().to_vec();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    assert_eq!(tensors.tensor("samples").unwrap().shape(), [2, 5, 3, 4]);
    assert_eq!(values("labels"), [3.0, 1.0]);
    let samples = values("samples");
    for (image, c, y, x) in (0..2).flat_map(|n| (0..5).flat_map(move |c| (0..12).map(move |p| (n, c, p / 4, p % 4)))) {
        let expected = images.pixels[((image * 3 + y) * 4 + x) * 5 + c];
        assert_eq!(samples[((image * 5 + c) * 3 + y) * 4 + x].to_bits(), expected.to_bits());
    }
}

#[test]
fn a_folder_has_a_file_for_each_image_and_can_be_continued() {
    let (_folder, path) = file("samples");
    let (first, second) = (images([2, 9, 6, 4], 0), images([3, 9, 6, 4], 1));
    write(&Output::parse(&path, false).unwrap(), &first, &[], &info()).unwrap();
    write_folder(&path, &second.clone().with_labels(Some(vec![5, 6, 7])), 2, &info()).unwrap();
    write_folder(&path, &second, 1_234_567, &[]).unwrap();
    let expected = ["000000", "000001", "000002", "000003", "000004", "1234567", "1234568", "1234569"];
    assert_eq!(names(&path), expected.map(|name| format!("{name}.png")));
    for (images, begin) in [(&first, 0), (&second, 2)] {
        for index in 0..images.n {
            let (image, text) = read_png(&path.join(format!("{:06}.png", begin + index)));
            let one = Images { n: 1, pixels: images.each().nth(index).unwrap().to_vec(), ..images.clone() };
            image.assert_is_grid(&one, 1, 0, 1);
            assert!(text.contains(&("index".to_owned(), (begin + index).to_string())));
            let label = text.iter().find(|(key, _)| key == "label").map(|(_, text)| text.parse().unwrap());
            assert_eq!(label, (begin == 2).then_some(5 + index));
            assert!(info().iter().all(|entry| text.contains(entry)));
        }
    }
}

/// A folder that holds other images would mix them with these.
#[test]
fn a_folder_of_other_images_is_refused() {
    let (_folder, path) = file("samples");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("notes.txt"), "").unwrap();
    let output = Output::parse(&path, false).unwrap();
    write(&output, &images([2, 4, 4, 1], 0), &[], &[]).unwrap();
    write(&output, &images([2, 4, 4, 1], 1), &[], &[]).unwrap();
    let error = write(&output, &images([1, 4, 4, 1], 0), &[], &[]).unwrap_err().to_string();
    assert!(error.contains("000001.png: is another image"), "{error}");
    fs::write(path.join("cat.JPG"), "").unwrap();
    let error = write(&output, &images([2, 4, 4, 1], 0), &[], &[]).unwrap_err().to_string();
    assert!(error.contains("cat.JPG"), "{error}");
}

#[test]
fn a_grey_gif_is_exact_loops_and_holds_its_end() {
    let (_folder, path) = file("a.gif");
    let frames: Vec<_> = (0..8).map(|k| images([4, 28, 28, 1], k)).collect();
    let (last, before) = frames.split_last().unwrap();
    // The end is shown once, whether it is among the frames or not.
    for previews in [before, &frames] {
        write_as(&path, false, last, previews).unwrap();
        let decoded = read_gif(&path);
        assert_eq!(decoded.len(), 8);
        for (k, (picture, delay)) in decoded.iter().enumerate() {
            assert_eq!(*delay, if k == 7 { 2000 } else { 200 });
            let rgb = |images: &Images| images.pixels.iter().flat_map(|&value| [value; 3]).collect();
            let expected = Images { channels: 3, pixels: rgb(&frames[k]), ..frames[k].clone() };
            picture.assert_is_grid(&expected, 2, 1, 3);
        }
        let mut reader = gif::DecodeOptions::new().read_info(File::open(&path).unwrap()).unwrap();
        while reader.next_frame_info().unwrap().is_some() {}
        assert!(matches!(reader.repeat(), gif::Repeat::Infinite));
    }
    let bytes = fs::read(&path).unwrap();
    let comment = "command: ddpm sample model -o ü.png\n";
    assert!(bytes.windows(comment.len()).any(|window| window == comment.as_bytes()));
}

#[test]
fn a_colour_gif_is_close_and_few_colours_are_exact() {
    let (_folder, path) = file("a.gif");
    // A smooth image has more than 256 colours: each is replaced by one near it.
    let smooth = |y: usize, x: usize| [y as f32 / 63.0, x as f32 / 63.0, (x + y) as f32 / 126.0];
    let pixels = (0..64 * 64).flat_map(|i| smooth(i / 64, i % 64)).map(|value| value * 2.0 - 1.0).collect();
    let images = Images::new([1, 64, 64, 3], pixels);
    write_as(&path, false, &images, &[]).unwrap();
    let decoded = read_gif(&path);
    assert_eq!(decoded.len(), 1);
    let differences =
        decoded[0].0.bytes.iter().zip(to_u8(&images.pixels)).map(|(&a, b)| f64::from(a.abs_diff(b)).powi(2));
    let rms = (differences.sum::<f64>() / images.pixels.len() as f64).sqrt();
    // 256 fixed colours (8 reds, 8 greens, 4 blues) would be at 16.
    assert!(rms < 10.0, "{rms}");

    // Half transparent red on white, and what is not there at all.
    let pixels = [[1.0, -1.0, -1.0, 0.0], [-1.0, -1.0, -1.0, -1.0], [-1.0, 1.0, -1.0, 1.0], [0.2, 0.2, 1.0, 1.0]];
    let images = Images::new([1, 2, 2, 4], pixels.concat());
    write_as(&path, true, &images, &[]).unwrap();
    let (picture, _) = &read_gif(&path)[0];
    assert_eq!([picture.height, picture.width], [64, 64]);
    assert_eq!(picture.at(0, 0), [255, 127, 127]);
    assert_eq!(picture.at(31, 32), [255, 255, 255]);
    assert_eq!(picture.at(32, 31), [0, 255, 0]);
    assert_eq!(picture.at(63, 63), [153, 153, 255]);
}

#[test]
fn an_animated_png_is_exact_and_without_animation_shows_the_end() {
    let (_folder, path) = file("a.png");
    for channels in [1, 3, 4] {
        let frames: Vec<_> = (0..30).map(|k| images([3, 20, 40, channels], k)).collect();
        let last = images([3, 20, 40, channels], 99);
        write_as(&path, true, &last, &frames).unwrap();
        let (still, text) = read_png(&path);
        still.assert_is_grid(&last, 2, 1, 2);
        assert_eq!(text, info());

        let mut reader = png::Decoder::new(BufReader::new(File::open(&path).unwrap())).read_info().unwrap();
        let control = *reader.info().animation_control().unwrap();
        assert_eq!((control.num_frames, control.num_plays), (31, 0));
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        for (k, expected) in frames.iter().chain([&last]).enumerate() {
            let frame = reader.next_frame(&mut bytes).unwrap();
            let control = reader.info().frame_control().unwrap();
            assert_eq!((control.delay_num, control.delay_den), (if k == 30 { 200 } else { 12 }, 100));
            let (height, width) = (frame.height as usize, frame.width as usize);
            Decoded { height, width, channels, bytes: bytes.clone() }.assert_is_grid(expected, 2, 1, 2);
        }
        assert!(reader.next_frame(&mut bytes).is_err());
    }
}

#[test]
fn a_sheet_has_a_row_an_image_and_a_column_a_step() {
    let (_folder, path) = file("deep/sheet.png");
    let frames: Vec<_> = (0..11).map(|k| images([3, 40, 64, 3], k)).collect();
    for (columns, picked) in [(1, vec![10]), (2, vec![0, 10]), (3, vec![0, 5, 10]), (99, (0..11).collect())] {
        sheet(&path, &frames, columns, &info()).unwrap();
        let cells = (0..3).flat_map(|row| picked.iter().map(move |&k| (k, row)));
        let pixels: Vec<f32> =
            cells.flat_map(|(k, row): (usize, _)| frames[k].each().nth(row).unwrap()).copied().collect();
        let expected = Images { n: 3 * picked.len(), pixels, ..frames[0].clone() };
        let (decoded, text) = read_png(&path);
        decoded.assert_is_grid(&expected, picked.len(), 2, 1);
        assert_eq!(text, info());
    }
    assert!(matches!(sheet(&path, &[], 3, &[]), Err(Error::Shape(_))));
    let other = [frames[0].clone(), images([2, 40, 64, 3], 0)];
    assert!(matches!(sheet(&path, &other, 3, &[]), Err(Error::Shape(_))));
}

#[test]
fn what_is_wrong_is_named_and_what_was_there_stays() {
    let folder = tempdir().unwrap();
    let good = images([3, 4, 4, 3], 0);
    let mut diverged = good.clone();
    diverged.pixels[50] = f32::NAN;
    diverged.pixels[60] = f32::INFINITY;
    let mut short = good.clone();
    short.pixels.pop();
    let none = Images { n: 0, pixels: Vec::new(), ..good.clone() };
    for name in ["a.png", "a.gif", "a.npz", "a.safetensors", "folder"] {
        let output = Output::parse(&folder.path().join(name), false).unwrap();
        write(&output, &good, &[], &[]).unwrap();
        let path = if name == "folder" { output.path().join("000000.png") } else { output.path().to_owned() };
        let before = fs::read(&path).unwrap();
        let reason = |images: &Images, labels: Option<&[u32]>, frames: &[Images]| {
            let images = images.clone().with_labels(labels.map(<[u32]>::to_vec));
            match write(&output, &images, frames, &[]) {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            }
        };
        if name != "a.safetensors" {
            let error = reason(&diverged, None, &[]);
            assert!(error.starts_with("image 1 of 3 has 2 values that are NaN or infinite"), "{error}");
        }
        assert!(reason(&short, None, &[]).contains("143 values are not images of shape [3, 4, 4, 3]"));
        assert!(reason(&none, None, &[]).contains("[0, 4, 4, 3]"));
        assert!(reason(&good, Some(&[1, 2]), &[]).contains("2 labels for 3 images"));
        if name == "a.gif" {
            let frames = [good.clone(), images([2, 4, 4, 3], 0)];
            assert!(reason(&good, None, &frames).contains("frame 1 has shape [2, 4, 4, 3], expected [3, 4, 4, 3]"));
            assert!(reason(&good, None, &[diverged.clone()]).contains("image 1 of 3"));
        }
        if [".png", ".gif", "folder"].iter().any(|end| name.ends_with(end)) {
            assert!(reason(&images([1, 4, 4, 2], 0), None, &[]).contains("images of 2 channels are not a picture"));
        }
        assert_eq!(fs::read(&path).unwrap(), before, "{name}");
    }
    // A keyword that PNG does not allow is found while writing.
    let path = folder.path().join("a.png");
    let before = fs::read(&path).unwrap();
    let keyword = [("k".repeat(80), String::new())];
    let error = write(&Output::Grid(path.clone()), &good, &[], &keyword).unwrap_err();
    assert!(matches!(&error, Error::Weights(_)) && error.to_string().contains("a.png"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(names(folder.path()), ["a.gif", "a.npz", "a.png", "a.safetensors", "folder"]);
}
