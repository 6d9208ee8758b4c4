//! Evaluating the calls that build tensors, plain values and opaque instances; all others are errors.
//!
//! The functions that rebuild tensors are in `torch/_utils.py`, the persistent ids of storages in
//! `torch/serialization.py`.

use super::machine::{Machine, PickleError, Result};
use super::value::{Item, Object, PickleValue, Storage, Strided};
use crate::shown::shown_sizes;
use crate::tensor::MAX_RANK;
use safetensors::tensor::Dtype;

/// Storage classes and dtypes of torch.
const DTYPES: [(&str, &str, Dtype); 12] = [
    ("torch.FloatStorage", "torch.float32", Dtype::F32),
    ("torch.HalfStorage", "torch.float16", Dtype::F16),
    ("torch.BFloat16Storage", "torch.bfloat16", Dtype::BF16),
    ("torch.DoubleStorage", "torch.float64", Dtype::F64),
    ("torch.LongStorage", "torch.int64", Dtype::I64),
    ("torch.IntStorage", "torch.int32", Dtype::I32),
    ("torch.ShortStorage", "torch.int16", Dtype::I16),
    ("torch.CharStorage", "torch.int8", Dtype::I8),
    ("torch.ByteStorage", "torch.uint8", Dtype::U8),
    ("torch.BoolStorage", "torch.bool", Dtype::BOOL),
    ("", "torch.uint16", Dtype::U16),
    ("", "torch.uint32", Dtype::U32),
];

/// Functions whose results are kept as opaque objects with the arguments in them. Checkpoints use them for other data
/// than weights (settings, states of random generators), which are not interpreted.
const OPAQUE: [&str; 11] = [
    "torch.device",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "datetime.datetime",
    "datetime.timedelta",
];

/// The longest name, in bytes, of a function that may be allowed.
const MAX_NAME: usize = 64;

/// Evaluates `function(*arguments)`, the opcode REDUCE.
pub(super) fn call(machine: &mut Machine, function: Item, arguments: Item) -> Result<Item> {
    let name = match machine.pickle.node(function) {
        Some(PickleValue::Name(name)) if name.len() <= MAX_NAME => name,
        _ => return Err(forbidden(machine, function, arguments)),
    };
    // A copy, since the machine changes below.
    let name = name.strip_prefix("__builtin__.").map_or_else(|| name.to_string(), |name| format!("builtins.{name}"));
    let Some(list) = machine.pickle.sequence(arguments) else {
        return Err(forbidden(machine, function, arguments));
    };
    match (&*name, list) {
        (
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
            &[storage, offset, size, stride, ref more @ ..],
        ) => {
            // After the needed gradient and the hooks.
            check_attributes(machine, more.get(2))?;
            tensor(machine, storage, offset, size, stride, None)
        }
        ("torch._utils._rebuild_tensor_v3", &[storage, offset, size, stride, _, _, dtype, ref more @ ..]) => {
            check_attributes(machine, more.first())?;
            tensor(machine, storage, offset, size, stride, Some(dtype))
        }
        ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", &[data, ..]) => Ok(data),
        ("torch.nn.parameter.Parameter", &[data, ..]) => Ok(data),
        // A tensor with attributes: (function, class, arguments, attributes).
        ("torch._tensor._rebuild_from_type_v2", &[function, _, inner, _]) if is_tensor_function(machine, function) => {
            call(machine, function, inner)
        }
        // A storage in a pickle that torch.save did not write.
        ("torch.storage._load_from_bytes", &[bytes]) => match machine.add_nested_storage(bytes)? {
            Some(storage) => Ok(storage),
            None => Err(forbidden(machine, function, arguments)),
        },
        // An instance of a class whose source code is in the pickle (NVlabs' stylegan3, edm and edm2). The code is not run.
        ("torch_utils.persistence._reconstruct_persistent_obj", &[meta]) => {
            // Of a dictionary of many entries, which can be memoized, the search would take long.
            let is_short = |dict: &PickleValue| matches!(dict, PickleValue::Dict(entries) if entries.len() <= 16);
            if !machine.pickle.node(meta).is_some_and(is_short) {
                return Err(forbidden(machine, function, arguments));
            }
            let [class, state] = ["class_name", "state"].map(|key| machine.pickle.get(meta, key));
            match (machine.copy_text(class.unwrap_or(Item::None))?, state) {
                (Some(class), Some(state)) => {
                    let object = opaque(machine, &class, Item::None)?;
                    build(machine, object, state)?;
                    Ok(object)
                }
                _ => Err(forbidden(machine, function, arguments)),
            }
        }
        ("torch.Size" | "builtins.tuple", &[items]) => match copied(machine, items)? {
            Some(items) => machine.add_node(PickleValue::Tuple(items.into())),
            None => Err(forbidden(machine, function, arguments)),
        },
        ("builtins.set" | "builtins.frozenset" | "builtins.list", items) => match items {
            [] => machine.add_node(PickleValue::List(Vec::new())),
            &[items, ..] => match copied(machine, items)? {
                Some(items) => machine.add_node(PickleValue::List(items)),
                None => Err(forbidden(machine, function, arguments)),
            },
        },
        ("collections.OrderedDict" | "collections.Counter" | "builtins.dict", items) => match items {
            [] => machine.add_node(PickleValue::Dict(Vec::new())),
            &[items, ..] => match entries(machine, items)? {
                Some(entries) => machine.add_node(PickleValue::Dict(entries)),
                None => Err(forbidden(machine, function, arguments)),
            },
        },
        ("collections.defaultdict", [_]) => machine.add_node(PickleValue::Dict(Vec::new())),
        // Protocol 2 writes bytes as the characters with the same numbers.
        ("_codecs.encode", &[text, ..]) => {
            // Each byte becomes at most one. The factor covers the vector that grows.
            machine.charge(3 * machine.pickle.text(text).map_or(0, |text| text.len() as u64))?;
            let bytes = machine.pickle.text(text).and_then(|text| text.chars().map(|c| u8::try_from(c).ok()).collect());
            match bytes {
                Some::<Vec<u8>>(bytes) => machine.add_node(PickleValue::Bytes(bytes.into())),
                None => Err(forbidden(machine, function, arguments)),
            }
        }
        ("builtins.bytes" | "builtins.bytearray", []) => machine.add_node(PickleValue::Bytes(Box::new([]))),
        ("builtins.bytearray", &[bytes, ..]) if matches!(machine.pickle.node(bytes), Some(PickleValue::Bytes(_))) => {
            Ok(bytes)
        }
        ("numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar", &[dtype, bytes]) => {
            Ok(numpy_scalar(machine, dtype, bytes).unwrap_or(bytes))
        }
        ("copy_reg._reconstructor" | "copyreg._reconstructor", &[class, _, Item::None]) => {
            let empty = machine.add_node(PickleValue::Tuple(Box::new([])))?;
            instance(machine, class, empty)
        }
        (name, _) if OPAQUE.contains(&name) => opaque(machine, name, arguments),
        _ => Err(forbidden(machine, function, arguments)),
    }
}

/// Makes an instance, the opcodes NEWOBJ, INST and OBJ. Its state is set later, by [`build`].
pub(super) fn instance(machine: &mut Machine, class: Item, arguments: Item) -> Result<Item> {
    if !machine.pickle.sequence(arguments).is_some_and(<[_]>::is_empty) {
        return call(machine, class, arguments);
    }
    match machine.copy_name(class)?.as_deref() {
        Some("collections.OrderedDict" | "builtins.dict") => machine.add_node(PickleValue::Dict(Vec::new())),
        Some(name) => opaque(machine, name, Item::None),
        None => call(machine, class, arguments),
    }
}

/// Sets the state of a value, the opcode BUILD. The state of an object is kept, and that of a dictionary or tensor
/// (such as `_metadata`) is ignored.
pub(super) fn build(machine: &mut Machine, target: Item, state: Item) -> Result<()> {
    if let Some(object) = machine.object_mut(target) {
        object.state = state;
        return Ok(());
    }
    match machine.pickle.node(target) {
        Some(PickleValue::Dict(_) | PickleValue::Tensor(_)) => Ok(()),
        _ => {
            Err(machine
                .error(format!("the state of {} is set, which is not an instance", machine.pickle.describe(target))))
        }
    }
}

/// Resolves a persistent id, which is `('storage', class, key, location, elements)`, in the legacy format with a view
/// `(key, first, elements)` at the end, or `('module', class, …)`, which torch uses for warnings about changed sources.
pub(super) fn persistent(machine: &mut Machine, id: Item) -> Result<Item> {
    let wrong =
        |machine: &Machine| machine.error(format!("{} is not the id of a storage", machine.pickle.describe(id)));
    let pickle = &machine.pickle;
    let Some([kind, rest @ ..]) = pickle.sequence(id) else {
        return Err(wrong(machine));
    };
    match (pickle.text(*kind), rest) {
        (Some("module"), &[class, ..]) => Ok(class),
        (Some("storage"), &[class, key, _, Item::Int(len), ref view @ ..]) => {
            let (mut start, mut len) = (0, len);
            if let Some(&[_, Item::Int(first), Item::Int(elements)]) = view.first().and_then(|v| pickle.sequence(*v)) {
                (start, len) = (first, elements);
            }
            let (Ok(start), Ok(len)) = (u64::try_from(start), u64::try_from(len)) else {
                return Err(wrong(machine));
            };
            let (Some(class), Some(key)) = (machine.copy_name(class)?, machine.copy_text(key)?) else {
                return Err(wrong(machine));
            };
            let dtype = DTYPES.iter().find(|(name, ..)| *name == class).map(|&(.., dtype)| dtype);
            let index = machine.add_storage(Storage { key, class, dtype, len, start, within: None })?;
            machine.add_node(PickleValue::Storage(index))
        }
        _ => Err(wrong(machine)),
    }
}

/// Checks that a tensor has no attributes that change its values, such as a negation that torch does when they are used.
fn check_attributes(machine: &Machine, attributes: Option<&Item>) -> Result<()> {
    let is_empty = match attributes {
        None | Some(Item::None) => true,
        Some(&item) => matches!(machine.pickle.node(item), Some(PickleValue::Dict(entries)) if entries.is_empty()),
    };
    match is_empty {
        true => Ok(()),
        false => {
            Err(machine.error("a tensor is still to be negated or conjugated; save torch.resolve_neg(tensor).clone()"))
        }
    }
}

/// Builds a tensor from the arguments of torch's `_rebuild_tensor` functions.
fn tensor(
    machine: &mut Machine,
    storage: Item,
    offset: Item,
    size: Item,
    stride: Item,
    dtype: Option<Item>,
) -> Result<Item> {
    let pickle = &machine.pickle;
    let wrong = |what: &str| machine.error(format!("a tensor is built with {what}"));
    let Some(&PickleValue::Storage(index)) = pickle.node(storage) else {
        return Err(wrong("no storage"));
    };
    let Item::Int(offset) = offset else {
        return Err(wrong("no offset"));
    };
    let (Some(shape), Some(stride), Ok(offset)) =
        (sizes(machine, size), sizes(machine, stride), usize::try_from(offset))
    else {
        return Err(wrong("sizes, strides or an offset that are not whole numbers ≥ 0, or more than 254 sizes"));
    };
    if shape.len() != stride.len() {
        let (shape, stride) = (shown_sizes(&shape), shown_sizes(&stride));
        return Err(wrong(&format!("shape {shape} and strides {stride}, which differ in length")));
    }
    let dtype = match dtype {
        None => pickle.storages[index as usize].dtype,
        Some(dtype) => match pickle.node(dtype) {
            Some(PickleValue::Name(name)) => {
                DTYPES.iter().find(|(_, dtype, _)| **dtype == **name).map(|&(.., dtype)| dtype)
            }
            _ => return Err(wrong("no dtype")),
        },
    };
    let tensor = Strided { storage: index as usize, dtype, offset, shape, stride };
    machine.charge((size_of::<Strided>() + 16 * tensor.shape.len()) as u64)?;
    machine.add_node(PickleValue::Tensor(tensor.into()))
}

fn sizes(machine: &Machine, item: Item) -> Option<Vec<usize>> {
    let number = |item: &Item| match item {
        Item::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    let items = machine.pickle.sequence(item).filter(|items| items.len() <= MAX_RANK)?;
    // Collecting would allocate four sizes and more.
    let mut sizes = Vec::with_capacity(items.len());
    for item in items {
        sizes.push(number(item)?);
    }
    Some(sizes)
}

fn is_tensor_function(machine: &Machine, function: Item) -> bool {
    matches!(machine.pickle.node(function), Some(PickleValue::Name(name)) if name.starts_with("torch._utils._rebuild_"))
}

/// Copies the entries of a dictionary or of a list of pairs; `None` if it is neither.
fn entries(machine: &mut Machine, item: Item) -> Result<Option<Vec<(Item, Item)>>> {
    let count = match machine.pickle.node(item) {
        Some(PickleValue::Dict(entries)) => entries.len(),
        _ => machine.pickle.sequence(item).map_or(0, <[_]>::len),
    };
    // The factor covers the vector of pairs that grows.
    machine.charge((3 * count * size_of::<(Item, Item)>()) as u64)?;
    if let Some(PickleValue::Dict(entries)) = machine.pickle.node(item) {
        return Ok(Some(entries.clone()));
    }
    let pair = |item: &Item| match *machine.pickle.sequence(*item)? {
        [key, value] => Some((key, value)),
        _ => None,
    };
    Ok(machine.pickle.sequence(item).and_then(|items| items.iter().map(pair).collect()))
}

/// Copies the elements of a list or tuple; `None` if it is neither.
fn copied(machine: &mut Machine, item: Item) -> Result<Option<Vec<Item>>> {
    let count = machine.pickle.sequence(item).map_or(0, <[_]>::len);
    machine.charge((count * size_of::<Item>()) as u64)?;
    Ok(machine.pickle.sequence(item).map(<[_]>::to_vec))
}

/// Decodes `numpy.float64(…)` and similar scalars as a number.
fn numpy_scalar(machine: &Machine, dtype: Item, bytes: Item) -> Option<Item> {
    let Some(PickleValue::Object(dtype)) = machine.pickle.node(dtype) else {
        return None;
    };
    // The first argument of `dtype('f8', False, True)`.
    let name = dtype.elements.first().and_then(|&name| machine.pickle.text(name))?;
    let Some(PickleValue::Bytes(bytes)) = machine.pickle.node(bytes) else {
        return None;
    };
    Some(match (name, &**bytes) {
        ("f8", bytes) => Item::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
        ("f4", bytes) => Item::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        ("i8", bytes) => Item::Int(i64::from_le_bytes(bytes.try_into().ok()?)),
        ("i4", bytes) => Item::Int(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        ("b1", &[byte]) => Item::Bool(byte != 0),
        _ => return None,
    })
}

/// Makes an object of the class `name`, with the arguments of its constructor as elements.
fn opaque(machine: &mut Machine, name: &str, arguments: Item) -> Result<Item> {
    machine.charge((size_of::<Object>() + name.len()) as u64)?;
    let elements = copied(machine, arguments)?.unwrap_or_default();
    let object = Object { class: name.into(), state: Item::None, entries: Vec::new(), elements };
    machine.add_node(PickleValue::Object(object.into()))
}

/// Makes the error that shows a call that is not allowed.
fn forbidden(machine: &Machine, function: Item, arguments: Item) -> PickleError {
    let function = machine.pickle.describe(function);
    let arguments = machine.pickle.describe(arguments);
    let call =
        if arguments.starts_with('(') { format!("{function}{arguments}") } else { format!("{function}({arguments})") };
    PickleError::Call { call, byte: machine.byte }
}
