"""Writes hub.parquet like the datasets library (pyarrow 26): ten grey images of 2x2 pixels of value 10 i + 1, in row
groups of four rows and pages of one; label i % 3 of the classes cat, dog, fox. And zeros.parquet: a page of 7 KB that
expands to 100 MB, for 500 rows."""
import io, json
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image

def png(value):
    out = io.BytesIO()
    Image.new("L", (2, 2), value).save(out, "PNG")
    return out.getvalue()

image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "fox"], "_type": "ClassLabel"}}
schema = pa.schema([("image", image), ("label", pa.int64())],
                   metadata={"huggingface": json.dumps({"info": {"features": features}})})
rows = {"image": [{"bytes": png(10 * i + 1), "path": f"{i}.png"} for i in range(10)], "label": [i % 3 for i in range(10)]}
pq.write_table(pa.table(rows, schema=schema), "hub.parquet", row_group_size=4, data_page_size=1, write_batch_size=1)
zeros = pa.table({"image": pa.array([bytes(200_000)] * 500, pa.binary())})
pq.write_table(zeros, "zeros.parquet", use_dictionary=False, compression="zstd")
