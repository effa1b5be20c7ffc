#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The page of a small committed run, file by file, and the committed page of the last full run.

After a change of the page that is meant: page_test.py --update
"""
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
sys.path.insert(0, str(HERE.parent))
sys.dont_write_bytecode = True
import page  # noqa: E402

different = 0


def check(expected, written):
    global different
    if "--update" in sys.argv:
        expected.write_bytes(written.read_bytes())
    elif not expected.exists() or expected.read_bytes() != written.read_bytes():
        print(f"{expected} is not what the page program writes")
        different += 1


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    sample = page.compact(page.read(HERE / "run.json"), page.read(HERE / "compile_time.json"))
    page.write(folder / "benchmarks.json", page.dump(sample))
    for part in "language_model", "numbers":
        shutil.copy(HERE / "expected" / f"benchmarks_{part}.json", folder)
    page.write_page(folder / "benchmarks.json", folder / "benchmarks.md", folder)
    names = {path.name for path in folder.iterdir()}
    if names != {path.name for path in (HERE / "expected").iterdir()}:
        sys.exit(f"written: {sorted(names)}")
    for name in sorted(names):
        check(HERE / "expected" / name, folder / name)
    page.write_page(DOCS / "benchmarks.json", folder / "docs.md", folder)
    check(DOCS / "benchmarks.md", folder / "docs.md")
sys.exit(different)
