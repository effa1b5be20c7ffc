#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the selected benchmarks, measures compile times, and writes docs/benchmarks.{json,md} and its plots."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import page

BENCH = Path(__file__).resolve().parent
SOURCE = BENCH.parent
INCLUDE = SOURCE / "include"
FLAGS = ["-std=c++17", "-O2"]


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", SOURCE, *arguments], capture_output=True, text=True).stdout.strip()
    # What this program itself writes does not make the benchmarked code different.
    changes = git("status", "--porcelain", "--", ".", ":(exclude)docs/benchmarks*")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with local changes" if changes else "")


def cost(command, target):
    """Of compiling one file: wall time, the most memory of the compiler, the size of the object."""
    begin = time.monotonic()
    child = subprocess.Popen(command + ["-c", "-o", target])
    _, status, usage = os.wait4(child.pid, 0)  # a bare Debian has no /usr/bin/time
    seconds = time.monotonic() - begin
    if status != 0:
        sys.exit(f"failed: {command}")
    return {"seconds": round(seconds, 2), "megabytes": float(round(usage.ru_maxrss / 1024)),
            "object_kilobytes": round(os.path.getsize(target) / 1000, 1)}


def compile_times(compiler, include_folders, folder):
    """Every public header alone, an empty file, and a program with one HydraLoRA; again if a header has changed."""
    folder.mkdir(parents=True, exist_ok=True)
    result, program = folder / "compile_times.json", BENCH / "forward_backward.cpp"
    headers = sorted(INCLUDE.rglob("*.hpp"))
    if result.exists() and result.stat().st_mtime > max(path.stat().st_mtime for path in headers + [program]):
        return page.read(result)
    command = [compiler, *FLAGS, f"-I{INCLUDE}", *(f"-isystem{include}" for include in include_folders)]
    files = [{"name": "one HydraLoRA forward and backward", **cost(command + [program], folder / "object.o")}]
    for header in ["Eigen/Core"] + [path.relative_to(INCLUDE).as_posix() for path in headers]:
        (folder / "header.cpp").write_text(f"#include <{header}>\n")
        files.append({"name": header, **cost(command + [folder / "header.cpp"], folder / "object.o")})
        print(files[-1], flush=True)
    times = {"flags": " ".join(FLAGS), "files": files}
    result.write_text(json.dumps(times, indent=1) + "\n")
    return times


def run(options, names):
    google = options.folder / "benchmarks.json"
    with open(options.folder / "benchmarks.txt", "w") as log:
        subprocess.run([options.program, f"--benchmark_filter={names}", "--benchmark_min_time=0.02",
                        f"--benchmark_repetitions={options.repetitions}", f"--benchmark_context=commit={commit()}",
                        "--benchmark_enable_random_interleaving=true", "--benchmark_display_aggregates_only=true",
                        f"--benchmark_out={google}", "--benchmark_out_format=json"], stdout=log, check=True)
    return page.read(google)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="the benchmarks")
    parser.add_argument("--folder", required=True, type=Path, help="for what lies between the run and the page")
    parser.add_argument("--docs", default=SOURCE / "docs", type=Path, help="where the page goes")
    parser.add_argument("--compiler", default="c++")
    parser.add_argument("--include", action="append", default=[], help="a folder that the public headers need")
    parser.add_argument("--filter", default="^select/", help="regular expression of the names that are run")
    parser.add_argument("--repetitions", default="3")
    parser.add_argument("--numbers-only", action="store_true", help="only the section on 16 bits")
    options = parser.parse_args()

    numbers = page.compact(run(options, "^bits/"), None)
    page.write(options.docs / "benchmarks_numbers.json", page.dump(numbers))
    if not options.numbers_only:
        times = compile_times(options.compiler, options.include, options.folder / "compile_time")
        page.write(options.docs / "benchmarks.json", page.dump(page.compact(run(options, options.filter), times)))
    gnuplot, plots = shutil.which("gnuplot"), options.folder / "plots"
    page.write_page(options.docs / "benchmarks.json", options.docs / "benchmarks.md", plots if gnuplot else None)
    if gnuplot:
        script = f"data='{plots}'; out='{options.docs}/benchmarks_'"
        subprocess.run([gnuplot, "-e", script, BENCH / "plots.gp"], check=True)
    else:
        print("gnuplot not found: the page has no plots (Debian: gnuplot-nox)")
    print(f"{options.docs}/benchmarks.md written")


if __name__ == "__main__":
    main()
