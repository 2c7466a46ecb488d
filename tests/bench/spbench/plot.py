"""The rows beside the peers as a picture, drawn by gnuplot: ratios to the best peer with their spread and goals, then the figures."""
import os
import subprocess
import tempfile

COLOURS = {"smartproxy": "#1f6fb4", "nginx": "#9a9a9a", "haproxy": "#c9c9c9", "floor": "#e0b050"}
SCRIPT = """set terminal svg size {width},860 font "sans,12" background "#ffffff"
set output "{out}"
set multiplot layout 2,1
set style fill solid 0.9 border 0
set xtics rotate by -35 left nomirror scale 0
set grid ytics lc rgb "#dddddd"
set border 3
set ytics nomirror
set pointintervalbox 0
set lmargin 9
set key outside bottom center horizontal
set boxwidth 0.6
set title "CPU time (or memory) of SmartProxy as a share of the best of nginx and HAProxy"
set yrange [0:{top}]
set xrange [-0.6:{last}.6]
plot "{data}" index 0 using 0:2:xtic(1) with boxes lc rgb "{smartproxy}" title "SmartProxy", \\
  "" index 0 using 0:2:3:4 with yerrorbars lc rgb "#333333" pt 7 ps 0.3 lw 1.5 title "rounds", \\
  "" index 0 using 0:5 with points pt 9 ps 1.1 lc rgb "#c03030" title "to reach", 1 with lines lw 2 lc rgb "#333333" title "best peer"
set title "CPU us a request (KiB, ms where the row counts those), logarithmic"
set style data histograms
set style histogram cluster gap 1
set boxwidth 0.9 relative
set logscale y
set yrange [*:*]
plot {bars}
unset multiplot
"""


def draw(report, out):
    rows = {name: row for name, row in report["rows"].items() if "cases" not in row and not row["is_void"]}
    if not rows:
        return
    lines = []
    for name, row in rows.items():
        goal = "NaN" if row["goal"] is None else row["goal"]
        if row["goal"] is not None and row["goal_unit"] != "ratio":
            goal = row["goal"] / row["programs"][row["best_peer"]][row["figure"]]
        lines.append(f'"{name}" {row["ratio"]} {row["ratio_min"]} {row["ratio_max"]} {goal}')
    lines += ["", ""]
    for name, row in rows.items():
        lines.append(f'"{name}" ' + " ".join(str(row["programs"][p][row["figure"]]) if p in row["programs"] else "NaN" for p in COLOURS))
    titles = {"smartproxy": "SmartProxy", "nginx": "nginx", "haproxy": "HAProxy", "floor": "floor"}
    with tempfile.TemporaryDirectory(prefix="sp-bench-plot-") as folder:
        data = os.path.join(folder, "data")
        with open(data, "w", encoding="ascii") as f:
            f.write("\n".join(lines) + "\n")
        bars = ", ".join(f'"{data}" index 1 using {ix + 2}{":xtic(1)" if ix == 0 else ""} lc rgb "{colour}" title "{titles[p]}"'
                         for ix, (p, colour) in enumerate(COLOURS.items()))
        top = max(1.15, 1.1 * max(row["ratio_max"] for row in rows.values()))
        script = SCRIPT.format(out=os.path.abspath(out), data=data, bars=bars, top=top, last=len(rows) - 1, width=max(900, 62 * len(rows) + 120),
                               smartproxy=COLOURS["smartproxy"])
        subprocess.run(["gnuplot"], input=script, text=True, check=True)
