//! Naming the tensors of a pickle by their dotted paths.

use crate::budget::Budget;
use crate::pickle::{Item, Pickle, PickleValue, Strided};
use crate::shown::shown;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The greatest nesting that is followed. State dictionaries need two or three levels, whole modules a dozen.
const MAX_DEPTH: usize = 64;
/// Attributes of a module that are left out of the names of its parameters, as its state dictionary does.
const MODULE: [&str; 3] = ["_modules", "_parameters", "_buffers"];

/// Finds all tensors of `pickle`. The names, and the search for them, are taken from `budget`.
pub(super) fn tensors(pickle: &Pickle, budget: &mut Budget) -> Result<BTreeMap<String, Strided>, String> {
    let mut search = Search { pickle, budget, tensors: BTreeMap::new() };
    search.visit(pickle.root, &mut String::new(), 0)?;
    Ok(search.tensors)
}

struct Search<'a> {
    pickle: &'a Pickle,
    budget: &'a mut Budget,
    tensors: BTreeMap<String, Strided>,
}

impl Search<'_> {
    /// Adds all tensors under `item`, whose path is `prefix`.
    fn visit(&mut self, item: Item, prefix: &mut String, depth: usize) -> Result<(), String> {
        let pickle = self.pickle;
        match pickle.node(item) {
            Some(PickleValue::Tensor(tensor)) => {
                let bytes = 2 * size_of::<(String, Strided)>() + prefix.len() + 16 * tensor.shape.len();
                self.take(bytes, "it names too many tensors")?;
                match self.tensors.insert(prefix.clone(), (**tensor).clone()) {
                    Some(before) if before != **tensor => {
                        Err(format!("it has two tensors that are named `{}`", shown(&prefix)))
                    }
                    _ => Ok(()),
                }
            }
            Some(PickleValue::Dict(entries)) => self.visit_entries(entries, &[], prefix, depth),
            Some(PickleValue::List(items)) => self.visit_items(items, prefix, depth),
            Some(PickleValue::Tuple(items)) => self.visit_items(items, prefix, depth),
            Some(PickleValue::Object(object)) => {
                if let Some(PickleValue::Dict(attributes)) = pickle.node(object.state) {
                    self.visit_entries(attributes, &MODULE, prefix, depth)?;
                }
                self.visit_entries(&object.entries, &[], prefix, depth)
            }
            _ => Ok(()),
        }
    }

    /// Visits the values of a dictionary. The keys in `left_out` do not become a part of the path.
    fn visit_entries(
        &mut self,
        entries: &[(Item, Item)],
        left_out: &[&str],
        prefix: &mut String,
        depth: usize,
    ) -> Result<(), String> {
        self.take_visits(entries.len())?;
        for &(key, value) in entries {
            if self.pickle.node(value).is_some() {
                let key = match (key, self.pickle.text(key)) {
                    (_, Some(text)) => Cow::Borrowed(text),
                    (Item::Int(number), _) => number.to_string().into(),
                    _ => self.pickle.describe(key).into(),
                };
                self.visit_part(Some(&*key).filter(|key| !left_out.contains(key)), value, prefix, depth)?;
            }
        }
        Ok(())
    }

    /// Visits the elements of a list or tuple.
    fn visit_items(&mut self, items: &[Item], prefix: &mut String, depth: usize) -> Result<(), String> {
        self.take_visits(items.len())?;
        for (i, &item) in items.iter().enumerate() {
            if self.pickle.node(item).is_some() {
                self.visit_part(Some(&i.to_string()), item, prefix, depth)?;
            }
        }
        Ok(())
    }

    /// Visits a part of the value at `prefix`, and adds the part's name to the path, if it has one.
    fn visit_part(&mut self, name: Option<&str>, item: Item, prefix: &mut String, depth: usize) -> Result<(), String> {
        if depth == MAX_DEPTH {
            return Err(format!("its values are nested more than {MAX_DEPTH} deep, at `{}`", shown(&prefix)));
        }
        let before = prefix.len();
        if let Some(name) = name {
            self.take((before + name.len()) / 8, "its names are too long")?;
            prefix.push_str(if before > 0 { "." } else { "" });
            prefix.push_str(name);
        }
        self.visit(item, prefix, depth + 1)?;
        prefix.truncate(before);
        Ok(())
    }

    /// Takes the time of visiting a container of `count` values, since one that is memoized can be visited often.
    fn take_visits(&mut self, count: usize) -> Result<(), String> {
        self.take(32 + count, "its values refer to each other too often")
    }

    fn take(&mut self, bytes: usize, problem: &str) -> Result<(), String> {
        self.budget.take(bytes as u64).map_err(|reason| format!("{problem}: naming its tensors {reason}"))
    }
}
