#!/usr/bin/env python3
"""Sorts the emoji of the npm package emoji-datasource-google (Noto, Apache-2.0) into a folder for each category.

    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
    tools/emoji.py package data/emoji

Skin tones are left out. Needs only Python.
"""

import json
import shutil
import sys
from pathlib import Path


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: tools/emoji.py PACKAGE FOLDER")
    package, folder = map(Path, sys.argv[1:])
    count = 0
    for emoji in json.loads((package / "emoji.json").read_text()):
        if not emoji["has_img_google"] or emoji["category"] == "Component":
            continue
        category = folder / emoji["category"].lower().replace(" & ", "-and-").replace(" ", "-")
        category.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / "img/google/64" / emoji["image"], category)
        count += 1
    print(f"{count} images in {folder}")


if __name__ == "__main__":
    main()
