//! The request inside a PNG, with the images that it names: jobs and uploads are forgotten, and their numbers name others later.

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::api::Failure;
use crate::picture::Pixels;
use crate::requests::{ImageRef, JobRequest};

/// Returns a request with its images as PNG: `{"png": "…"}` in the place of `{"job": 1, "image": 0}`.
pub fn request(request: &JobRequest, sources: &[(ImageRef, Pixels)]) -> Result<Value, Failure> {
    let value = |value: serde_json::Result<Value>| value.map_err(|error| Failure::internal(error.to_string()));
    let mut embedded = value(serde_json::to_value(request))?;
    for (image, pixels) in sources {
        let name = value(serde_json::to_value(image))?;
        let png = pixels.png(None).map_err(|error| Failure::internal(error.to_string()))?;
        let png = json!({ "png": BASE64_STANDARD.encode(png) });
        images_of(&mut embedded).filter(|image| **image == name).for_each(|image| *image = png.clone());
    }
    Ok(embedded)
}

/// Replaces the PNGs in a request by uploads, whose numbers `store` returns.
pub fn unpack(request: &mut Value, store: &mut dyn FnMut(&[u8]) -> Result<u64, Failure>) -> Result<(), Failure> {
    for image in images_of(request) {
        let Some(text) = image.get("png") else { continue };
        let bytes = text.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let bytes =
            bytes.ok_or_else(|| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "an image inside is damaged"))?;
        *image = json!({ "upload": store(&bytes)? });
    }
    Ok(())
}

/// The images that a request names.
fn images_of(request: &mut Value) -> impl Iterator<Item = &mut Value> {
    let fields = request.as_object_mut().into_iter().flatten();
    let named = fields.filter(|(key, _)| ["image", "from", "ends"].contains(&key.as_str())).map(|(_, value)| value);
    named.flat_map(|value| match value {
        Value::Array(ends) => ends.iter_mut().collect(),
        image => vec![image],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_a_request_travel_with_it() {
        let text = r#"{"kind": "interpolate", "model": "m", "ends": [{"job": 3, "image": 1}, {"data": 2}], "at": 5}"#;
        let parsed: JobRequest = serde_json::from_str(text).unwrap();
        let pixels = Pixels { shape: [1, 1, 2, 1], bytes: vec![7, 9] };
        let mut embedded = request(&parsed, &[(ImageRef::Job { job: 3, image: 1 }, pixels.clone())]).unwrap();
        assert_eq!(embedded["ends"][1], json!({ "data": 2 }));
        let mut stored = Vec::new();
        let mut store = |bytes: &[u8]| {
            stored.push(bytes.to_vec());
            Ok(11)
        };
        unpack(&mut embedded, &mut store).unwrap();
        assert_eq!(stored, [pixels.png(None).unwrap()]);
        let again: JobRequest = serde_json::from_value(embedded.clone()).unwrap();
        assert!(
            matches!(again, JobRequest::Interpolate(r) if r.ends == [ImageRef::Upload { upload: 11 }, ImageRef::Data { data: 2 }])
        );
        embedded["ends"][0] = json!({ "png": "no base64!" });
        assert!(unpack(&mut embedded, &mut |_| Ok(1)).is_err());
    }
}
