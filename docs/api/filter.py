#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What Doxygen reads instead of a header (INPUT_FILTER). Line numbers stay, so warnings point into the header.

- Indented lines of a comment are verbatim, and so is what follows "forward" and "backward" in its column.
- Source, Cost, Numerics, Memory and Errors are titles.
- The comment at the top of a header is the description of the file.
- The names are without the inline namespace that carries the instruction set.
"""
import re
import sys

COMMENT = re.compile(r"( *///) ?(.*)")
VERBATIM = re.compile(r"  +\S|(forward|backward)  +\S")
TITLE = re.compile(r"(Source|Cost|Numerics|Memory|Errors) +(?=\S)")


def escaped(text):
    """Text without HTML: between backticks Doxygen does that itself."""
    return "`".join(part if i % 2 else part.replace("<", r"\<") for i, part in enumerate(text.split("`")))


lines = open(sys.argv[1], encoding="utf-8").read().splitlines()
if lines[1:2] == ["//"]:
    lines[0] = "/// @file"
    for i in range(1, lines.index("#pragma once")):
        lines[i] = re.sub("^//", "///", lines[i])
in_tag = False  # the indented lines after a tag go on with its text
for i, line in enumerate(lines):
    found = COMMENT.fullmatch(line)
    text = found[2] if found else ""
    if not text.startswith("  "):
        in_tag = text.startswith("@") or TITLE.match(text)
    if VERBATIM.match(text) and not in_tag:
        kind = "verbatim"
    else:
        kind = "text" if found else "code"
    if kind == "verbatim" and not (i > 0 and previous == "verbatim"):
        lines[i] = f"{found[1]} @verbatim {text}"
    elif kind == "text":
        lines[i] = (found[1] + " " + TITLE.sub(r"@titled{\1} ", escaped(text))).rstrip()
    elif kind == "code":
        code, mark, text = line.partition("///<")
        lines[i] = "" if re.search("(inline|//) namespace HYDRALORA_BUILD", code) else code + mark + escaped(text)
    if kind != "verbatim" and i > 0 and previous == "verbatim":
        lines[i - 1] += " @endverbatim"
    previous = kind
print("\n".join(lines))
