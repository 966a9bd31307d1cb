"""The results of the clipping benchmark as a table, as Markdown and as a picture."""

import json
import math

TITLES = {
    "engine": "keras_dp",
    "vmap": "keras_dp, vmap",
    "jax_privacy": "jax_privacy",
    "opacus_hooks": "Opacus, hooks",
    "opacus_ghost": "Opacus, ghost",
    "tfp": "TF Privacy",
    "tfp_fast": "TF Privacy, fast",
}
MEANS = {  # name: the method, the one it is divided by, the figure
    "engine time": ("engine", "ordinary", "seconds"),
    "engine memory": ("engine", "ordinary", "temp_bytes"),
    "engine compile time": ("engine", "ordinary", "compile_seconds"),
    "vmap time": ("vmap", "ordinary", "seconds"),
    "jax_privacy time": ("jax_privacy", "ordinary", "seconds"),
    "jax_privacy time to engine": ("jax_privacy", "engine", "seconds"),
}
MICROBATCH = "Microbatch: the fastest of the sizes tried for jax_privacy; – is the whole batch."
OTHERS = {"torch": "PyTorch", "tfp": "TensorFlow"}


def quotient(methods, method, base, figure):
    """A figure of one method divided by another's, or None where one of them is missing."""
    top, bottom = (methods.get(name, {}).get(figure) for name in (method, base))
    return top / bottom if top and bottom else None


def geometric_means(results):
    """Geometric means over those of the nine models that have both figures."""
    means = {}
    for name, (method, base, figure) in MEANS.items():
        models = [m for key, m in results["models"].items() if key in results["nine"]]
        found = [quotient(model["methods"], method, base, figure) for model in models]
        logs = [math.log(value) for value in found if value]
        if logs:
            means[name] = {"mean": math.exp(sum(logs) / len(logs)), "models": len(logs)}
    return means


def worst_difference(model):
    """Largest relative difference between the private methods on a model; NaN of a single one."""
    found = [facts["difference"] for facts in model["methods"].values() if "difference" in facts]
    return max(found) if len(found) > 1 else math.nan


# --- rows of text, shared by terminal and Markdown ----------------------------------------------


def _ratio(methods, method, figure):
    """A ratio to ordinary training, or what came instead of it."""
    value = quotient(methods, method, "ordinary", figure)
    if value is not None:
        return f"{value:.2f}"
    return methods.get(method, {}).get("status", "–") if figure == "seconds" else "–"


def _bytes(value):
    return f"{value / 1e6:,.0f} MB"


def time_table(results):
    """Rows of the main table: time, all methods."""
    methods = _private_methods(results)
    shown = [TITLES[name] for name in methods]
    head = ["Model", "Batch", "Ordinary", *shown, "Microbatch", "Differ by"]
    rows = []
    for name, model in results["models"].items():
        facts = model["methods"]
        cells = [_ratio(facts, m, "seconds") for m in methods]
        ordinary = f"{1000 * facts['ordinary']['seconds']:.1f} ms"
        small = str(facts.get("jax_privacy", {}).get("microbatch") or "–")
        error = worst_difference(model)
        differ = "–" if math.isnan(error) else f"{error:.0e}"
        rows.append([name, str(model["batch"]), ordinary, *cells, small, differ])
    return "Step time, as a multiple of ordinary training", head, rows


def figure_table(results, figure, title, show):
    """Rows of a table for another figure: memory, compile or trace time."""
    methods = _private_methods(results)
    head = ["Model", "Ordinary", *(TITLES[name] for name in methods)]
    rows = []
    for name, model in results["models"].items():
        facts = model["methods"]
        cells = [_ratio(facts, m, figure) for m in methods]
        rows.append([name, show(facts["ordinary"][figure]), *cells])
    return title, head, rows


def other_table(results, framework):
    """Rows for another framework against its own ordinary training."""
    models = results[framework]["models"]
    methods = list(dict.fromkeys(m for model in models.values() for m in model if m in TITLES))
    head = ["Model", "Batch", "Ordinary", *(TITLES[name] for name in methods)]
    rows = []
    for name, model in models.items():
        cells = [_other_cell(model.get(method)) for method in methods]
        ordinary = f"{1000 * model['ordinary']['seconds']:.1f} ms"
        rows.append([name, str(model["batch"]), ordinary, *cells])
    versions = ", ".join(f"{k} {v}" for k, v in results[framework]["versions"].items())
    return f"Step time in {OTHERS[framework]} ({versions}), to its own ordinary step", head, rows


def _other_cell(facts):
    if facts is None:
        return "–"
    return f"{facts['ratio']:.2f}" if "ratio" in facts else facts["status"]


def mean_table(results):
    """Rows of the geometric means."""
    means = results["geometric_means"]
    rows = [[k, f"{v['mean']:.2f}", f"{v['models']} of 9"] for k, v in means.items()]
    return "Geometric means", ["Ratio", "Mean", "Over"], rows


def tables(results):
    """All tables as title, head, rows."""
    found = [
        time_table(results),
        figure_table(results, "temp_bytes", "Temporary memory, as a multiple", _bytes),
        figure_table(results, "compile_seconds", "Compile time, as a multiple", "{:.2f} s".format),
        figure_table(results, "trace_seconds", "Trace time, as a multiple", "{:.2f} s".format),
    ]
    found += [other_table(results, name) for name in OTHERS if results.get(name)]
    return [*found, mean_table(results)]


def _private_methods(results):
    models = results["models"].values()
    return list(dict.fromkeys(m for model in models for m in model["methods"] if m in TITLES))


# --- the three outputs --------------------------------------------------------------------------


def print_tables(results):
    """Show all tables in the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 110
    for title, head, rows in tables(results):
        table = Table(title=title)
        for index, column in enumerate(head):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(MICROBATCH, markup=False)
    for note in results["notes"]:
        console.print(f"Note: {note}", markup=False)


def markdown(results):
    """All tables as Markdown."""
    facts = ", ".join(f"{key} {value}" for key, value in results["environment"].items())
    parts = ["# Cost of per-example clipping", facts]
    for title, head, rows in tables(results):
        lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
        parts += [f"## {title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts += [MICROBATCH, *(f"Note: {note}" for note in results["notes"])]
    return "\n\n".join(parts) + "\n"


def plot(results, path):
    """Bars of the step times, one group for each model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models, ratios = list(results["models"]), _all_ratios(results)
    figure, axes = pyplot.subplots(figsize=(8, 2 + 0.8 * len(models)), layout="constrained")
    height = 0.85 / max(1, len(ratios))
    for index, (title, found) in enumerate(ratios.items()):
        places = [place + index * height for place in range(len(models))]
        values = [found.get(name, math.nan) for name in models]
        bars = axes.barh(places, values, height, label=title)
        axes.bar_label(bars, [f"{found[n]:.1f}" if n in found else "" for n in models], fontsize=7)
    axes.set_yticks([place + 0.43 - height / 2 for place in range(len(models))], models)
    axes.axvline(1, color="black", linewidth=1)
    label = "step time / ordinary training of the same model in the same framework"
    axes.set(xscale="log", xlabel=label, title="Per-example clipping")
    axes.set_ylim(len(models), -0.3)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    if ratios:
        figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _all_ratios(results):
    """Step times to ordinary training, by title and model, of all frameworks."""
    runs = [{name: model["methods"] for name, model in results["models"].items()}]
    runs += [results[other]["models"] for other in OTHERS if results.get(other)]
    found = {}
    for name, methods in (pair for run in runs for pair in run.items()):
        for method, facts in methods.items():
            if method in TITLES and "ratio" in facts:
                found.setdefault(TITLES[method], {})[name] = facts["ratio"]
    return found


def save_json(results, folder):
    """Write what there is so far, so that an interrupted run leaves something."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clipping.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def report(results, folder):
    """Print the tables and write the files."""
    print_tables(results)
    save_json(results, folder)
    if folder is not None:
        (folder / "clipping.md").write_text(markdown(results), "utf-8")
        plot(results, folder / "clipping.png")
