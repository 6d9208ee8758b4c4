//! Naming the tensors of a pickle by their dotted paths.

use crate::pickle::{Item, Pickle, PickleValue, Strided};
use std::collections::BTreeMap;

/// The greatest nesting that is followed. State dictionaries need two or three levels, whole modules a dozen.
const MAX_DEPTH: usize = 64;
/// Attributes of a module that are left out of the names of its parameters, as its state dictionary does.
const MODULE: [&str; 3] = ["_modules", "_parameters", "_buffers"];

/// Finds all tensors of `pickle`. The names and the search together may allocate about `budget` bytes.
pub(super) fn tensors(pickle: &Pickle, mut budget: u64) -> Result<BTreeMap<String, Strided>, String> {
    let mut tensors = BTreeMap::new();
    visit(pickle, pickle.root, &mut String::new(), 0, &mut budget, &mut tensors)?;
    Ok(tensors)
}

/// Adds all tensors under `item`, whose path is `prefix`.
fn visit(
    pickle: &Pickle,
    item: Item,
    prefix: &mut String,
    depth: usize,
    budget: &mut u64,
    tensors: &mut BTreeMap<String, Strided>,
) -> Result<(), String> {
    let inside = match pickle.node(item) {
        Some(PickleValue::List(items)) => items.len(),
        Some(PickleValue::Tuple(items)) => items.len(),
        Some(PickleValue::Dict(entries)) => entries.len(),
        Some(PickleValue::Object(object)) => object.entries.len(),
        _ => 0,
    };
    let visited = 32 + inside as u64;
    *budget = budget.checked_sub(visited).ok_or(
        "its values refer to each other too often: naming its tensors exceeds the budget (4 × the file's size)",
    )?;
    let mut inner = |name: Option<&str>, item: Item, prefix: &mut String| {
        if pickle.node(item).is_none() {
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(format!("its values are nested more than {MAX_DEPTH} deep, at `{prefix:.80}`"));
        }
        let before = prefix.len();
        if let Some(name) = name {
            prefix.push_str(if before > 0 { "." } else { "" });
            prefix.push_str(name);
            *budget = budget
                .checked_sub(prefix.len() as u64 / 8)
                .ok_or("its names are too long: naming its tensors exceeds the budget (4 × the file's size)")?;
        }
        visit(pickle, item, prefix, depth + 1, budget, tensors)?;
        prefix.truncate(before);
        Ok(())
    };
    let key = |item: Item| match (item, pickle.text(item)) {
        (_, Some(text)) => text.to_owned(),
        (Item::Int(number), _) => number.to_string(),
        _ => pickle.describe(item),
    };
    match pickle.node(item) {
        Some(PickleValue::Tensor(tensor)) => {
            let cost = 3 * size_of::<(String, Strided)>() + prefix.len() + 16 * tensor.shape.len();
            *budget = budget
                .checked_sub(cost as u64)
                .ok_or("its tensors have too many names: naming them exceeds the budget (4 × the file's size)")?;
            tensors.insert(prefix.clone(), (**tensor).clone());
        }
        Some(PickleValue::Dict(entries)) => {
            entries.iter().try_for_each(|&(name, value)| inner(Some(&key(name)), value, prefix))?;
        }
        Some(PickleValue::List(items)) => {
            items.iter().enumerate().try_for_each(|(i, &item)| inner(Some(&i.to_string()), item, prefix))?;
        }
        Some(PickleValue::Tuple(items)) => {
            items.iter().enumerate().try_for_each(|(i, &item)| inner(Some(&i.to_string()), item, prefix))?;
        }
        Some(PickleValue::Object(object)) => {
            if let Some(PickleValue::Dict(entries)) = pickle.node(object.state) {
                for &(name, value) in entries {
                    let name = key(name);
                    inner(Some(&*name).filter(|name| !MODULE.contains(name)), value, prefix)?;
                }
            }
            object.entries.iter().try_for_each(|&(name, value)| inner(Some(&key(name)), value, prefix))?;
        }
        _ => {}
    }
    Ok(())
}
