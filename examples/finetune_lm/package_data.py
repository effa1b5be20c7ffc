#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes a data set for finetune_lm from the package lists of a Debian machine.

From a package's name and short description to its section, its role, and the language that it is written in. The
last two come from debtags, and are left out where the lists have none.
"""
import argparse
import collections
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

QUESTIONS = {"section": "What is the archive section?", "role": "What is its role?",
             "language": "What language is it written in?"}
TAGS = {"role": "role", "language": "implemented-in"}  # facets of debtags
FILES = "train", "validation", "test"


def package_lists(path):
    if path:
        return path.read_text(encoding="utf-8", errors="replace")
    if not shutil.which("apt-cache"):
        raise ValueError("apt-cache is not installed: run this on Debian or Ubuntu, or give --from FILE")
    return subprocess.run(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, encoding="utf-8", errors="replace",
                          check=True).stdout


def packages(lists):
    """Name, source, short description and answers of every package. No name or description comes twice."""
    seen = set()
    for stanza in re.split(r"\n\s*\n", lists):
        fields = dict(re.findall(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M))
        name, section, about = (fields.get(key, "") for key in ("Package", "Section", "Description"))
        description = about.split("\n")[0].strip()
        if not name or not description or {name, description} & seen:
            continue
        seen |= {name, description}
        answers = {"section": section.split("/")[-1]} if section else {}
        for task, facet in TAGS.items():
            found = re.findall(rf"(?:^|[\s,]){facet}::([^\s,]+)", fields.get("Tag", ""))
            if len(found) == 1:  # several have no one right answer
                answers[task] = found[0]
        yield name, (fields.get("Source") or name).split()[0], description, answers


def chance(*words):
    """A number from 0 to 1 that depends on the words alone."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, words)).encode()).digest()[:8], "big") / 2**64


def examples_of(lists, options):
    """By task: (place in the order, file, answer, line). The packages of one source are all in the same file."""
    tasks = {task: [] for task in QUESTIONS}
    for name, source, description, answers in packages(lists):
        place = chance("file", source) / options.test_share
        file = FILES[2 if place < 1 else 1 if place < 2 else 0]
        for task, answer in answers.items():
            messages = [{"role": "user", "content": f"{name}: {description}\n{QUESTIONS[task]}"},
                        {"role": "assistant", "content": answer}]
            line = json.dumps({"messages": messages, "group": task}, ensure_ascii=False)
            tasks[task].append((chance("order", name, task), file, answer, line))
    return {task: sorted(all_of_it)[:options.limit] for task, all_of_it in tasks.items()}


def write(tasks, folder):
    folder.mkdir(parents=True, exist_ok=True)
    examples = sorted(example for all_of_it in tasks.values() for example in all_of_it)
    # In another place first, so that no file is ever half there.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        for name in FILES:
            with open(f"{new}/{name}", "w", encoding="utf-8") as file:
                file.writelines(line + "\n" for _, where, _, line in examples if where == name)
        for name in FILES:
            Path(new, name).replace(folder / f"{name}.jsonl")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="folder for train, validation and test.jsonl")
    parser.add_argument("--test-share", type=float, default=0.05, help="of test.jsonl; validation.jsonl has as much")
    parser.add_argument("--limit", type=int, help="examples of a task, in all files together")
    parser.add_argument("--from", dest="lists", metavar="FILE", type=Path, help="saved output of apt-cache dumpavail")
    options = parser.parse_args()
    if not 0 < options.test_share < 0.5 or (options.limit is not None and options.limit < 1):
        parser.error("--test-share is between 0 and 0.5, --limit at least 1")
    tasks = examples_of(package_lists(options.lists), options)
    if not tasks["section"]:
        raise ValueError(f"no package in {options.lists or 'the package lists: run apt-get update'}")
    write(tasks, options.out)
    for task, examples in tasks.items():
        if not examples:
            print(f"{task}: not made, the lists have no {TAGS[task]}:: tags")
            continue
        counts, answers = (collections.Counter(example[i] for example in examples) for i in (1, 2))
        answer, count = answers.most_common(1)[0]
        print(f"{task}: " + ", ".join(f"{counts[file]} {file}" for file in FILES) +
              f"; {len(answers)} answers, {100 * count / len(examples):.1f} % are {answer}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(print(f"package_data.py: {error}", file=sys.stderr) or 2)
