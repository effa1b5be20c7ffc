#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Deliberate bugs in the headers, each of which a named test must notice.

usage: mutate.py --check                                the table still fits the headers and the tests
       mutate.py [OPTIONS] SCRATCH COMPILER FLAGS...    compiles and runs the tests, without and with each bug
                 --only TEXT, --cheapest SECONDS, --suite, --report FILE

The tables are the *.json files beside this script. An entry has the header (`file`), the text that is there exactly
once (`old`), what replaces it (`new`), the test file (`test`) and the names of its test cases as doctest takes them
(`case`), and in words what is wrong (`bug`).

Every test file is compiled alone, with -O1, and first without a bug: its cases must then pass. A bug is caught where
they fail, crash or run into the time limit. A bug that does not compile is an error of the table. --only takes those
whose test or words have this text; repeated, it takes more, in this order. --cheapest takes those whose test compiles
in so many CPU-seconds. --suite runs the whole suite (the preset test) for bugs that survived.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FIELDS = ["file", "old", "new", "test", "case", "bug"]
# What does not change is compiled once. Not for tests that define something before it.
COMMON = ["Eigen/Core", "doctest/doctest.h", "nlohmann/json.hpp", "xsimd/xsimd.hpp", "complex", "filesystem", "map",
          "regex", "set", "sstream", "thread", "functional"]
ARCHIVES = {"golden/trainers.tar.xz": "golden", "lm/cases.tar.xz": "lm", "fuzz/corpus.tar.xz": "corpus"}
BETWEEN = {"io": [], "lm": ["-lpcre2-8", "-lutf8proc"]}
LEAST_SECONDS, MOST_TIMES = 60, 20  # time limit of a test: as often as long as without a bug


def header(entry, root=ROOT):
    return root / "include" / "hydralora" / entry["file"]


def table():
    """All entries. Exits with a message for every entry that does not fit."""
    entries, failures = [], []
    for path in sorted(HERE.glob("*.json")):
        for entry in json.loads(path.read_text()):
            name = f"{path.name}: {entry.get('bug', '?')}"
            if sorted(entry) != sorted(FIELDS):
                failures.append(f"{name}: has {sorted(entry)}, expected {sorted(FIELDS)}")
                continue
            entries.append(entry)
            count = header(entry).read_text().count(entry["old"]) if header(entry).exists() else -1
            if count != 1:
                failures.append(f"{name}: the text is {count} times in {entry['file']}, expected once: {entry['old']}")
            if entry["old"] == entry["new"]:
                failures.append(f"{name}: changes nothing")
            test = ROOT / "tests" / entry["test"]
            text = test.read_text() if test.exists() else ""
            found = re.findall(r'TEST_CASE(_TEMPLATE)?\(\s*"((?:[^"\\]|\\.)*)"', text)
            names = [one + ("<float>" if template else "") for template, one in found]  # as doctest calls them
            pattern = re.escape(entry["case"].lower()).replace(r"\*", ".*").replace(r"\?", ".")
            if not any(re.fullmatch(pattern, one.lower()) for one in names):
                failures.append(f"{name}: {entry['test']} has no test case {entry['case']}")
    repeated = collections.Counter((entry["file"], entry["old"], entry["new"]) for entry in entries)
    failures += [f"{key[0]}: twice in the tables: {key[1]}" for key, count in repeated.items() if count > 1]
    if len(entries) < 60:
        failures.append(f"only {len(entries)} entries were found")
    if failures:
        sys.exit("\n".join(failures))
    return entries


def selected(entries, texts):
    """Those whose test or words have one of the texts, in the order of the texts."""
    found = [entry for text in texts for entry in entries if text in f"{entry['test']} {entry['bug']}"]
    return list({id(entry): entry for entry in found}.values())


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Bench:
    """A copy of the headers and tests, and the program compiled from them."""

    def __init__(self, scratch, command):
        self.root = pathlib.Path(scratch).resolve()
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in "include", "tests", "examples":
            shutil.copytree(ROOT / folder, self.root / folder)
        self.common = self.root / "common.hpp"
        self.common.write_text("".join(f"#include <{name}>\n" for name in COMMON))
        for archive, folder in ARCHIVES.items():
            with tarfile.open(self.root / "tests" / archive) as files:
                files.extractall(self.root / folder)
        tests = self.root / "tests"
        places = {"GOLDEN_FOLDER": tests / "golden", "TRAINERS": self.root / "golden" / "trainers",
                  "GGUF_BLOCKS": tests / "io" / "gguf_blocks.gguf", "FUZZ_CORPUS": self.root / "corpus",
                  "LM_CASES": self.root / "lm"}
        self.flags = [*command, "-w", "-O1", "-DDOCTEST_CONFIG_SUPER_FAST_ASSERTS"]
        self.own = [f"-I{self.root / 'include'}", f"-I{tests}"]
        self.own += [f'-DHYDRALORA_{name}="{place}"' for name, place in places.items()]
        self.main = self.root / "main.o"
        self.run([*self.flags, "-O0", "-c", tests / "main.cpp", "-o", self.main])
        self.run([*self.flags, "-x", "c++-header", self.common, "-o", f"{self.common}.gch"])

    @staticmethod
    def run(command):
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}")

    def build(self, test):
        """Returns the compiler's errors, or an empty text."""
        source = self.root / "tests" / test
        is_program = "DOCTEST_CONFIG_IMPLEMENT" in source.read_text()  # with its own main()
        command = [*self.flags, *([] if is_program else ["-include", self.common]), *self.own, source,
                   *([] if is_program else [self.main]), *BETWEEN.get(test.split("/")[0], []), "-ldl", "-pthread",
                   "-o", self.root / "program"]
        done = subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, text=True)
        return "" if done.returncode == 0 else done.stderr or "failed"

    def test(self, case, limit):
        """Returns (whether it passed, how it ended, number of test cases)."""
        command = [self.root / "program", f"-tc={case.replace(',', '?')}", "--no-colors", "--abort-after=1"]
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        try:
            done = subprocess.run([str(word) for word in command], cwd=self.root, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=limit, env=environment)
        except subprocess.TimeoutExpired:
            return False, "time limit", 0
        ran = re.search(rb"test cases: +(\d+)", done.stdout)
        ending = "failed" if done.returncode == 1 else f"exit code {done.returncode}"
        return done.returncode == 0, ending, int(ran[1]) if ran else 0

    def suite(self, entry):
        """Whether the whole suite passes with this bug."""
        tree = self.root / "whole"
        if not tree.exists():
            names = subprocess.check_output(["git", "-C", ROOT, "ls-files"], text=True)
            for name in names.splitlines():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tree / name)
        path = header(entry, tree)
        text = path.read_text()
        path.write_text(text.replace(entry["old"], entry["new"]))
        done = subprocess.run(["cmake", "--workflow", "--preset", "test"], cwd=tree, stdout=subprocess.DEVNULL)
        path.write_text(text)
        return done.returncode == 0


def without_bugs(bench, test, cases):
    """Compiles a test. Returns (what is wrong, the time limit of every case)."""
    if errors := bench.build(test):
        return f"{test} does not compile: {errors}", {}
    limits = {}
    for case in cases:
        begin = time.monotonic()
        passed, ending, count = bench.test(case, 600)
        if not passed or count == 0:
            return f"{case}: {count} test cases, {ending} without a bug", {}
        limits[case] = max(LEAST_SECONDS, MOST_TIMES * (time.monotonic() - begin))
    return "", limits


def mutate(bench, entries, cheapest, suite):
    """Yields (entry, result, CPU-seconds)."""
    by_test = collections.defaultdict(list)
    for entry in entries:
        by_test[entry["test"]].append(entry)
    for test, group in by_test.items():
        start = children_seconds()
        wrong, limits = without_bugs(bench, test, {entry["case"] for entry in group})
        seconds = children_seconds() - start
        print(f"# {test} without a bug: {wrong or 'passes'}, {seconds:.0f} CPU-seconds", flush=True)
        if cheapest and seconds > cheapest:
            continue
        for entry in group:
            start = children_seconds()
            path = header(entry, bench.root)
            text = path.read_text()
            path.write_text(text.replace(entry["old"], entry["new"]))
            if wrong:
                result = "error: not green without a bug"
            elif bench.build(test):
                result = "error: does not compile"
            else:
                passed, ending, _ = bench.test(entry["case"], limits[entry["case"]])
                result = "survived" if passed else f"caught: {ending}"
            path.write_text(text)
            if result == "survived" and suite:
                result = "survived the whole suite" if bench.suite(entry) else "caught by the whole suite only"
            yield entry, result, children_seconds() - start


def report(rows, seconds):
    caught = sum(result.startswith("caught:") for _, result, _ in rows)
    lines = ["# Deliberate bugs", "",
             f"Written by `cmake --workflow --preset mutate`: {caught} of {len(rows)} bugs were caught by the test",
             f"that is named, in {seconds / 60:.0f} CPU-minutes.", "",
             "| header | bug | test | result |", "|---|---|---|---|"]
    for entry, result, _ in rows:
        lines.append(f"| {entry['file']} | {entry['bug']} | {entry['test']} | {result} |")
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:] == ["--check"]:
        print(f"{len(table())} bugs fit the headers")
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append")
    parser.add_argument("--cheapest", type=float, default=0)
    parser.add_argument("--suite", action="store_true")
    parser.add_argument("--report", type=pathlib.Path)
    parser.add_argument("scratch")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    entries = selected(table(), options.only or [""])
    bench = Bench(options.scratch, options.command)
    rows = []
    for entry, result, seconds in mutate(bench, entries, options.cheapest, options.suite):
        rows.append((entry, result, seconds))
        print(f"{result:24} {seconds:4.0f} s  {entry['file']}: {entry['bug']}", flush=True)
    if options.report:
        options.report.write_text(report(rows, children_seconds()))
    caught = sum(result.startswith("caught:") for _, result, _ in rows)
    print(f"{caught} of {len(rows)} caught, {children_seconds() / 60:.1f} CPU-minutes")
    return 0 if rows and caught == len(rows) else 1


sys.exit(main())
