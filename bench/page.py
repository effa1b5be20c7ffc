# SPDX-License-Identifier: MIT
"""From Google Benchmark's JSON to the committed results, the page and the numbers behind its plots.

A benchmark's name is <set>/<group>/<candidate>/<pass>/<sizes>/threads:<n>. tests/page_test.py --update writes the page
of the committed results anew.
"""
import json
import os
import re

# ------------------------------------------------------------------------------------------------ compact results
NOT_PUBLISHED = {"date", "host_name", "executable", "load_avg", "library_build_type", "mhz_per_cpu"}
NOT_COUNTERS = {"family_index", "per_family_instance_index", "repetitions", "repetition_index", "threads", "iterations",
                "real_time", "cpu_time"}
MICROSECONDS = {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6}


def four_digits(number):
    return float(number) if number == int(number) else float("%.4g" % number)


def compact(raw, compile_times):
    """Without what says nothing to a reader or names the host; a counter that never changes stands there once."""
    runs = {}
    for entry in raw["benchmarks"]:
        if entry["run_type"] != "iteration" or entry.get("error_occurred"):
            continue
        parts = entry["run_name"].split("/")[1:]
        name = "/".join(p for p in parts if p != "real_time" and not p.startswith(("min_time:", "repeats:")))
        run = runs.setdefault(name, {"name": name, "microseconds": [], "counters": {}})
        run["microseconds"].append(four_digits(entry["real_time"] * MICROSECONDS[entry["time_unit"]]))
        for key, value in entry.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and key not in NOT_COUNTERS:
                run["counters"].setdefault(key, []).append(four_digits(value))
    for run in runs.values():
        run["counters"] = {k: v[0] if len(set(v)) == 1 else v for k, v in run["counters"].items()}
    context = {key: value for key, value in raw["context"].items() if key not in NOT_PUBLISHED}
    return {"context": context, "compile_times": compile_times, "runs": [runs[name] for name in sorted(runs)]}


def dump(results):
    """One run a line: short, and a diff still shows which changed."""
    def line(value):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return ('{\n"context": %s,\n"compile_times": %s,\n"runs": [\n%s\n]\n}\n' % (
        line(results["context"]), line(results["compile_times"]), ",\n".join(map(line, results["runs"]))))


def dump_language_model(context, runs):
    line = [json.dumps(run, separators=(",", ":")) for run in runs]
    return '{\n"context": %s,\n"runs": [\n%s\n]\n}\n' % (json.dumps(context), ",\n".join(line))


# ------------------------------------------------------------------------------------------------ numbers as text
def spread_of(values):
    """(first quartile, median, third quartile)"""
    values, quartiles = sorted(values), []
    for share in 0.25, 0.5, 0.75:
        below, rest = divmod(share * (len(values) - 1), 1)
        low, high = values[int(below)], values[min(int(below) + 1, len(values) - 1)]
        quartiles.append(low + rest * (high - low))
    return tuple(quartiles)


def ratio(a, b):
    """Of all a / b: repetitions are interleaved at random, so none of a belongs to one of b."""
    return spread_of([x / y for x in a for y in b])


def number(value):
    return "%.0f" % value if 100 <= abs(value) < 1e9 else "%.3g" % value


def text(spread):
    """1.23 (1.20–1.31), and 1.23 where the three agree"""
    if spread is None:
        return "–"
    low, median, high = map(number, spread)
    return median if low == high else f"{median} ({low}–{high})"


def spaced(name):
    return name.replace("_", " ")


def row(cells):
    return "".join(f"| {cell} " for cell in cells) + "|\n"


def header(cells):
    return row(cells) + "|---" * len(cells) + "|\n"


# ------------------------------------------------------------------------------------------------ results
class Run:
    def __init__(self, entry):
        self.group, self.candidate, *rest = entry["name"].split("/")
        self.threads = next((int(p[8:]) for p in rest if p.startswith("threads:")), 1)
        self.work = "".join(p for p in rest if ":" not in p)
        self.sizes = "/".join(p for p in rest if ":" in p and not p.startswith("threads:"))
        self.microseconds = entry["microseconds"]
        self.counters = {k: v if isinstance(v, list) else [v] for k, v in entry["counters"].items()}

    def size(self, letter):
        """T, r or N out of the sizes; the first number of d."""
        found = re.search(rf"\b{letter}:(\d+)", self.sizes)
        return int(found.group(1)) if found else 0

    def counter(self, name):
        return spread_of(self.counters[name]) if name in self.counters else None

    def cells(self):
        sizes = self.sizes.replace("/", " ").replace(":", "=").split(" N=0")[0]
        return [spaced(self.work), sizes, str(self.threads)]


class Results:
    def __init__(self, data):
        self.context, self.compile_times = data["context"], data["compile_times"]
        self.runs = [Run(entry) for entry in data["runs"]]
        self.leave_out_disturbed()
        self.runs.sort(key=lambda r: (r.group, r.work, r.size("d"), r.size("r"), r.size("N"), r.size("T"), r.threads))
        self.by_key = {(r.group, r.candidate, r.work, r.sizes, r.threads): r for r in self.runs}

    def leave_out_disturbed(self):
        """Repetitions right before which the multiply-add peak was less than half of the best with as many threads."""
        best, self.repetitions, self.disturbed = {}, 0, 0
        with_peak = [run for run in self.runs if "peak" in run.counters]
        for run in with_peak:
            best[run.threads] = max([best.get(run.threads, 0), *run.counters["peak"]])
        for run in with_peak:
            count, peaks = len(run.microseconds), run.counters["peak"]
            self.repetitions += count
            if len(peaks) != count:  # always the same
                continue
            good = [i for i, peak in enumerate(peaks) if peak >= best[run.threads] / 2]
            run.microseconds = [run.microseconds[i] for i in good]
            run.counters = {k: [v[i] for i in good] if len(v) == count else v for k, v in run.counters.items()}
            self.disturbed += count - len(good)
        self.runs = [run for run in self.runs if run.microseconds]

    def find(self, group, candidate, work, sizes, threads):
        return self.by_key.get((group, candidate, work, sizes, threads))

    def of(self, group, candidate):
        return [run for run in self.runs if (run.group, run.candidate) == (group, candidate)]

    def others(self, group, ours):
        return sorted({run.candidate for run in self.runs if run.group == group} - {ours})

    def slower(self, ours, candidate):
        """The candidate's time over ours on the same work; nothing where either is missing."""
        other = ours and self.find(ours.group, candidate, ours.work, ours.sizes, ours.threads)
        return other and ratio(other.microseconds, ours.microseconds)


# ------------------------------------------------------------------------------------------------ goals
FORWARD, BOTH = "HydraLoRA_forward", "HydraLoRA_forward_backward"
MAIN, THREE_HEADS = "T:512/d:4096/r:8/N:8", "T:512/d:4096/r:8/N:3"


def goals():
    """What this project set out to reach: text, floor, aim, a counter or `over <candidate>` of a pass and a size."""
    passes = ("forward", FORWARD), ("forward and backward", BOTH)
    yield "forward, T=512 d=4096 r=8 N=8, % of peak", 65, 85, "percent_of_peak", FORWARD, MAIN
    yield "forward and backward, same, % of peak", 62, 80, "percent_of_peak", BOTH, MAIN
    yield "forward, N=3, % of peak", 50, 70, "percent_of_peak", FORWARD, THREE_HEADS
    yield "forward, N=3, against the best composition", 1.25, 1.5, "over best", FORWARD, THREE_HEADS
    for heads, floor, aim, size in ("N=8", 9, 12, MAIN), ("N=3", 6, 9, THREE_HEADS):
        for words, work in passes:
            yield f"{words}, {heads}, against the released formulation", floor, aim, "over torch_released", work, size
    yield "forward, against smart torch", 1.3, 1.8, "over torch_smart", FORWARD, MAIN
    yield "forward and backward, against smart torch", 1.4, 2, "over torch_smart", BOTH, MAIN
    for words, work in passes:
        yield f"{words}, against Eigen", 1.2, 1.6, "over eigen", work, MAIN
    for words, floor, aim, size in (("r·N = 64", 1, 1.2, MAIN), ("r=16 N=8", 0.95, 1.1, "T:512/d:4096/r:16/N:8"),
                                    ("r=64 N=4", 0.95, 1.1, "T:512/d:4096/r:64/N:4")):
        yield f"forward and backward, {words}, against the best composition", floor, aim, "over best", BOTH, size
    roofline, no_heads = "percent_of_roofline", "T:2048/d:4096/r:8/N:0"
    yield "LoRA forward, T=2048 d=4096 r=8, % of roofline", 65, 90, roofline, "LoRA_forward", no_heads
    yield "one token, d=4096 r=8 N=8, % of roofline", 70, 90, roofline, FORWARD, "T:1/d:4096/r:8/N:8"
    for tokens in 2, 4, 8, 16:
        # One measurement for both goals: a few tokens read the weights where they lie, so there is nothing to pack.
        what, size = f"{tokens} tokens, against the best composition, weights", f"T:{tokens}/d:4096/r:8/N:8"
        yield f"{what} ready", 1.5, 2.5, "over best", FORWARD, size
        yield f"{what} changed every call", 1.1, 1.6, "over best", FORWARD, size
    for words, work in passes:
        yield f"{words}, two threads over one, as a share of the peak's", 0.9, 0.97, "two over one", work, MAIN


def measured(results, measure, work, size, threads):
    run = results.find("peers", "ours", work, size, threads)
    if measure == "two over one":
        one = results.find("peers", "ours", work, size, 1) if threads == 2 else None
        return run and one and ratio(run.counters["percent_of_peak"], one.counters["percent_of_peak"])
    if measure.startswith("over "):
        return results.slower(run, measure[5:])
    return run and run.counter(measure)


def goal_table(results):
    def verdict(spread, floor, aim):
        if spread is None:
            return "–"
        reached = ", aim reached" if spread[1] >= aim else ", floor reached" if spread[1] >= floor else None
        return text(spread) + (reached or ", **below the floor**")
    page = header(["goal", "floor", "aim", "one thread", "two threads"])
    for what, floor, aim, *how in goals():
        page += row([what, number(floor), number(aim)] +
                    [verdict(measured(results, *how, threads), floor, aim) for threads in (1, 2)])
    run = results.find("peers", "ours", BOTH, MAIN, 1)
    saved = run and run.counter("saved_bytes")
    if saved:
        numbers, wanted = saved[1] / (4 * run.size("T")), run.size("r") + run.size("N")
        page += row(["numbers saved for backward per token, r=8 N=8", f"r + N = {number(wanted)}", "r + N",
                     number(numbers) + (", reached" if numbers <= wanted else ", **missed**"), "the same"])
    return page


# ------------------------------------------------------------------------------------------------ the page
def machine(context):
    page = "| | |\n|---|---|\n"
    for label, key in (("processor", "cpu"), ("cores", "num_cpus"), ("caches", "caches"),
                       ("instruction set", "instruction_set"), ("compiler", "compiler"), ("flags", "flags"),
                       ("commit", "commit")):
        value = context.get(key)
        if key == "caches" and value is not None:
            value = ", ".join(f"L{c['level']} {number(c['size'] / 1024)} KiB" for c in value
                              if c["type"] != "Instruction")
        page += row([label, value]) if value is not None else ""
    named = [(*key.split(":", 1), value) for key, value in context.items() if ":" in key]
    page += "".join(row([name, value]) for kind, name, value in named if kind == "library")
    for kind, name, value in named:
        if kind != "library":
            page += row([f"peer {spaced(name)}", value if kind == "peer" else f"not measured: {value}"])
    return page + (row(["energy", context["energy"]]) if "energy" in context else "")


def ceilings(results):
    page = header(["ceiling", "one thread", "two threads"])
    for name in "fma", "cache_read", "cache_update", "memory_read", "memory_update":
        unit = "GFLOP/s" if name == "fma" else "GB/s"
        runs = [results.find("ceilings", name, "", "", threads) for threads in (1, 2)]
        page += row([f"{spaced(name)}, {unit}"] + [text(run and run.counter(unit)) for run in runs])
    return page


def comparison(results, group, ours, counters):
    """A row for every size that `ours` was measured on: our share of the ceilings, and the others' times over ours."""
    if any(run.group == group and "joules" in run.counters for run in results.runs):
        counters = counters + ["joules"]
    others = results.others(group, ours)
    page = header(["", "size", "threads"] + [spaced(name) for name in counters + others])
    for run in results.of(group, ours):
        values = [run.counter(name) for name in counters]
        page += row(run.cells() + [number(value[1]) if value else "–" for value in values] +
                    [text(results.slower(run, name)) for name in others])
    return page


def number_types(results):
    """The section on 16 bits: a row for every size, what they gain and what they cost."""
    types = ["bfloat16", "half", "mixed"]
    page = f"""## Sixteen bits

Float's time over that of the same layer in 16 bits: above 1 the 16 bits are faster. All sums are float. In "mixed" x \
and y are bfloat16, the parameters float. Errors are against double on the numbers as they are rounded, so they are \
those of the sums and of the results' own rounding, 2⁻⁸ in bfloat16 and 2⁻¹¹ in half. Widening and rounding take \
instructions of their own, so 16 bits pay only where memory is the limit. Measured at commit \
{results.context["commit"]} on {results.context["instruction_set"].split(",")[0]}.

""" + header(["", "size", "threads"] + types + [f"{name}: error" for name in ["float"] + types])
    for run in results.of("numbers", "float"):
        same = [run] + [results.find("numbers", name, run.work, run.sizes, run.threads) for name in types]
        errors = [one and one.counter("error") for one in same]
        page += row(run.cells() + [text(one and results.slower(one, "float")) for one in same[1:]] +
                    [number(error[1]) if error else "–" for error in errors])
    return page + "\n"


def errors(results):
    page = header(["candidate", "largest error", "most allocations"])
    for candidate in ["ours"] + results.others("peers", "ours"):
        runs = results.of("peers", candidate)
        page += row([spaced(candidate)] + [number(max([run.counter(name)[2] for run in runs if name in run.counters],
                                                      default=0)) for name in ("error", "allocations")])
    return page


def losses(results):
    compared = [(slower, run, candidate) for group, ours in (("kernels", "simd"), ("peers", "ours"))
                for run in results.of(group, ours) for candidate in results.others(group, ours)
                if (slower := results.slower(run, candidate))]
    found = [loss for loss in compared if loss[0][1] < 1]
    page = (f"Every candidate that was faster than ours on the same work: {len(found)} of {len(compared)} comparisons, "
            "the worst first.\n\n")
    if found:
        page += header(["work", "size", "threads", "faster candidate", "its time over ours"])
    for slower, run, candidate in sorted(found, key=lambda loss: loss[0][1]):
        page += row(run.cells() + [spaced(candidate), text(slower)])
    return page


def language_model(data):
    """The section that language_model.py has measured."""
    tables = {}
    for run in data["runs"]:
        tables.setdefault(run["table"], {}).setdefault(run["row"], {})[run["column"]] = run
    context, speed, memory = data["context"], "tokens_per_cpu_second", "peak_rss_bytes"

    def over(a, b, worse):
        """Ratios, marked where they are against us."""
        spread = ratio(a, b)
        return text(spread) + (f", **{worse}**" if spread[1] < 1 else "")

    def megabytes(run):
        return number(spread_of(run[memory])[1] / 1e6)
    page = f"""## Language model

Training steps of the shape of SmolLM2-135M with random weights, in float32 unless a column says otherwise, on one \
thread: forward, backward and AdamW on one document of 512 tokens, adapters of rank 8 on all linears of the blocks. \
CPU time is the process's, user and system. The first step is not counted, but for the lines of growth behind the \
first, which are one step. The programs take turns. A column of another program is its time, or its peak memory, over \
ours. `bench/language_model.py` measures it, here at commit {context["commit"]}\
{"".join(f", {name} {context[name]}" for name in ("torch", "transformers", "peft") if name in context)}.

"""
    steps = tables.get("step", {})
    others = sorted({name for row_of in steps.values() for name in row_of} - {"ours"}, reverse=True)
    page += header(["training step", "tokens per CPU-second", "memory, MB"] +
                   [f"{name}: {what}" for name in others for what in ("time", "memory")])
    for name, programs in steps.items():
        ours, cells = programs["ours"], []
        for other in (programs.get(name) for name in others):
            cells += [over(ours[speed], other[speed], "faster than ours"),
                      over(other[memory], ours[memory], "less than ours")] if other else ["–", "–"]
        page += row([name, text(spread_of(ours[speed])), megabytes(ours)] + cells)
    growth = [(name, programs["ours"]) for name, programs in tables.get("growth", {}).items()]
    page += "\nGrowth with the size of the model, and with the length of the document:\n\n" + header(
        ["parameters, tokens", "tokens per CPU-second", "memory, MB", "time per parameter and token over the first's"])
    for name, one in growth:
        first, work = ([speed_of_one * run["parameters"][0] for speed_of_one in run[speed]]
                       for run in (growth[0][1], one))
        page += row([name, text(spread_of(one[speed])), megabytes(one), text(ratio(first, work))])
    page += ("\nTwo threads, alone and beside another process that keeps a core busy, and in the same minutes a loop "
             "of multiply-adds that shares nothing:\n\n" +
             header(["", "one thread", "two threads", "two, disturbed", "two over one", "disturbed over one"]))
    for name, programs in tables.get("threads", {}).items():
        rates = [programs[column].get("tokens_per_second") or [1e-9 * f for f in programs[column]["flop_per_second"]]
                 for column in ("one", "two", "two, disturbed")]
        page += row([name] + [text(spread_of(one)) for one in rates] +
                    [text(ratio(one, rates[0])) for one in rates[1:]])
    return page + "\n"


def compile_times(times):
    page = header(["file", "seconds", "peak memory, MB", "object, kB"])
    for file in times["files"]:
        page += row([f"`{file['name']}`"] + [number(file[key]) for key in ("seconds", "megabytes", "object_kilobytes")])
    return page


def render(results, with_plots):
    def plot(name, title):
        return f"\n![{title}](benchmarks_{name}.svg)\n" if with_plots else ""
    page = f"""# Benchmarks

Rendered from [benchmarks.json](benchmarks.json), which `cmake --workflow --preset bench` writes together with this \
page; nothing here is typed by hand.

Only the adapter is timed (y += ΔW x, and back); the host's own product with the frozen weight is not in it. All \
candidates run interleaved at random in one process, several times. Unless a column says otherwise a number is \
**the candidate's time over ours**: above 1 ours is faster. It is the median of all ratios between repetitions, with \
the quartiles in parentheses where they differ from it. Shares of peak and roofline are against ceilings measured \
beside every single run. An error is the largest difference from the same layer in double, over the largest magnitude.

"""
    if results.disturbed:
        page += f"""{results.disturbed} of {results.repetitions} repetitions are left out: right before them the \
multiply-add peak was less than half of the best with as many threads, so somebody else had the cores.

"""
    page += f"""## Machine

{machine(results.context)}
## Goals

Shares in percent, and times of the others over ours. A dash: not measured in this run.

{goal_table(results)}
## Ceilings

Measured in the same rotation as everything else.

{ceilings(results)}{plot("roofline", "Roofline of one thread")}
## Against other libraries

The same numbers through the formulas with Eigen's products, through BLAS libraries, through the best of them for \
every single product, and through PyTorch as the layer was released and as one would write it well.

{comparison(results, "peers", "ours", ["percent_of_peak", "percent_of_roofline"])}
Largest error of any candidate on any of these sizes, and its allocations per warm call:

{errors(results)}{plot("peers", "Time of other libraries over ours")}
## Where we lose

{losses(results)}
## LoRA, SplitLoRA and HydraLoRA

Times of the other layers over HydraLoRA's: LoRA of the same number of parameters, of the same rank, and of the same \
total rank r·N; SplitLoRA with the same heads and a learned gate. These are different functions, so what is faster \
here is not a loss in the sense above.

{comparison(results, "layers", "HydraLoRA",
            ["parameters", "saved_bytes", "percent_of_peak", "percent_of_roofline", "allocations", "error"])}\
{plot("layers", "LoRA and SplitLoRA against HydraLoRA")}{plot("heads", "Time against the number of heads")}\
{plot("tokens", "Time against the number of tokens")}
{number_types(results.numbers) if results.numbers else ""}\
{language_model(results.language_model) if results.language_model else ""}## Kernels

Every kernel by itself against the same in Eigen and against the plain loops it is tested with. "down" is the stack \
[A; gate], "up" is [B_1 … B_N].

{comparison(results, "kernels", "simd", ["percent_of_peak", "percent_of_roofline", "error"])}
## Compile time

The program with one HydraLoRA forward and backward pass, for which the budget is 6 s and 400 MB; an empty file with \
`Eigen/Core`, which it cannot be below; and every public header alone. With `{results.compile_times["flags"]}` and the \
compiler above, one file at a time.

{compile_times(results.compile_times)}"""
    return page


# ------------------------------------------------------------------------------------------------ plot data
def plot_data(results):
    """Tab-separated numbers for plots.gp, by file name."""
    def against(letter):
        """Size and milliseconds, in blocks by layer. All other sizes are the centre's."""
        blocks, centre = "", {"d": 4096, "r": 8, "T": 512, "N": 8}
        for layer in "HydraLoRA", "LoRA_equal_parameters", "LoRA_equal_total_rank":
            blocks += f'"{layer}"\n'
            for run in results.of("layers", layer):
                on_axis = all(run.size(name) == value for name, value in centre.items() if name != letter)
                if run.work == "forward_backward" and run.threads == 1 and on_axis and "x" not in run.sizes:
                    blocks += "%d\t%g\n" % (run.size(letter), 1e-3 * spread_of(run.microseconds)[1])
            blocks += "\n\n"
        return blocks

    def ceiling(name, unit):
        run = results.find("ceilings", name, "", "", 1)
        return run.counter(unit)[1] if run else 0

    def points(candidate):
        runs = [run for run in results.of("peers", candidate) if run.threads == 1 and "GFLOP/s" in run.counters]
        return "".join("%g\t%g\n" % (run.counter("intensity")[1], run.counter("GFLOP/s")[1]) for run in runs)

    def bar(ours, candidate):
        slower = results.slower(ours, candidate)
        return "\t" + (number(slower[1]) if slower else "nan")
    layers = results.others("layers", "HydraLoRA")
    layer_bars, peer_bars = "\t".join(["pass", "HydraLoRA"] + layers) + "\n", "peer\tforward\tforward_backward\n"
    for work in "forward", "forward_backward", "training_step":
        ours = results.find("layers", "HydraLoRA", work, MAIN, 1)
        if ours:
            layer_bars += f"{work}\t1" + "".join(bar(ours, layer) for layer in layers) + "\n"
    pair = [results.find("peers", "ours", work, MAIN, 1) for work in (FORWARD, BOTH)]
    for peer in results.others("peers", "ours"):
        peer_bars += peer + "".join(bar(ours, peer) for ours in pair) + "\n"
    return {"tokens": against("T"), "heads": against("N"), "layers": layer_bars, "peers": peer_bars,
            "ceilings": "%g\t%g\t%g\n" % (ceiling("fma", "GFLOP/s"), ceiling("memory_read", "GB/s"),
                                          ceiling("cache_read", "GB/s")),
            "roofline": f'"this library"\n{points("ours")}\n\n"best composition"\n{points("best")}\n\n'}


# ------------------------------------------------------------------------------------------------ files
def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)  # takes the NaN that Google Benchmark writes


def write(path, content):
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


def write_page(compact_json, page, plots=None):
    results = Results(read(compact_json))

    def beside(part):
        path = os.path.join(os.path.dirname(compact_json), f"benchmarks_{part}.json")
        return read(path) if os.path.exists(path) else None
    results.language_model, numbers = beside("language_model"), beside("numbers")
    results.numbers = numbers and Results(numbers)
    write(page, render(results, with_plots=plots is not None))
    if plots is not None:
        os.makedirs(plots, exist_ok=True)
        for name, content in plot_data(results).items():
            write(os.path.join(plots, name + ".tsv"), content)
