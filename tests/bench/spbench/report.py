"""What was measured, as text, JSON and the tables of README."""
import json

TITLES = {"smartproxy": "SmartProxy", "nginx": "nginx", "haproxy": "HAProxy", "floor": "floor", "before": "before"}


def machine_line(report):
    m = report["machine"]
    return (f"{m['cpu']}, {m['cpus']} CPUs, Linux {m['kernel']}; SmartProxy {m['smartproxy']}, nginx {m['nginx']}, HAProxy {m['haproxy']}, "
            f"OpenSSL {m['openssl']}; {report['rounds']} rounds of {report['seconds']} s")


def goal_text(row):
    if row["goal"] is None:
        return ""
    goal = f"{row['goal']:.2f}" if row["goal_unit"] == "ratio" else f"{row['goal']:g} {row['goal_unit']}"
    return f"{goal}: {'reached' if row['is_reached'] else 'no'}"


def say_beside(name, row):
    goal = goal_text(row)
    print(f"\n{name}: {row['ratio']:.3f} of {TITLES[row['best_peer']]} (rounds {row['ratio_min']:.3f} to {row['ratio_max']:.3f})" +
          (f", {row['to_floor']:.3f} of the floor" if "to_floor" in row else "") + (f", {row['to_before']:.3f} of before" if "to_before" in row else "") +
          (f"; to reach {goal}" if goal else "") + (" VOID" if row["is_void"] else ""))
    for program, f in row["programs"].items():
        figure = {"cpu_us": "us CPU", "kib": "KiB each", "start_ms": "ms"}[row["figure"]]
        line = f"  {TITLES[program]:<11}{f[row['figure']]:9.2f} {figure}"
        if row["figure"] == "cpu_us":
            line += f"  {f['rps']:9.0f} req/s  p50 {f['p50_us']:7.0f} us  p99 {f['p99_us']:8.0f} us"
        if "start_cpu_ms" in f:
            line += f"  start {f['start_ms']:6.0f} ms ({f['start_cpu_ms']:.0f} ms CPU)"
        if "memory_kib" in f:
            line += f"  {f['memory_kib'] / 1024:6.1f} MiB"
        print(line + f"  errors {f['errors']}", flush=True)


def say_alone(name, row):
    print(f"\n{name}: {row['what']}" + (" VOID" if row["is_void"] else ""))
    for c in row["cases"]:
        print(f"  {c['case']:<18} {c['says']}  errors {c['errors']}", flush=True)


def say(name, row):
    (say_alone if "cases" in row else say_beside)(name, row)


def cell(row, program):
    return f"{row['programs'][program][row['figure']]:.1f}" if program in row["programs"] else ""


def markdown(report):
    """The tables of README: beside the peers, and ours alone."""
    rows = report["rows"]
    beside = {name: row for name, row in rows.items() if "cases" not in row}
    alone = {name: row for name, row in rows.items() if "cases" in row}
    lines = [machine_line(report) + ".", ""]
    if beside:
        lines += ["| row | SmartProxy | nginx | HAProxy | floor | ratio to best peer | to floor | goal |", "|---|---|---|---|---|---|---|---|"]
    for name, row in beside.items():
        cells = [cell(row, program) for program in ("smartproxy", "nginx", "haproxy", "floor")]
        cells[0] += " " + row["unit"]
        ratio = "void" if row["is_void"] else f"{row['ratio']:.2f} ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
        floor = f"{row['to_floor']:.2f}" if "to_floor" in row and not row["is_void"] else ""
        lines.append(f"| {name} | " + " | ".join(cells + [ratio, floor, goal_text(row)]) + " |")
    if alone:
        lines += [""] * bool(beside) + ["| row | case | measured |", "|---|---|---|"]
    for name, row in alone.items():
        lines += [f"| {name} | {c['case']} | {'void' if row['is_void'] else c['says']} |" for c in row["cases"]] or [f"| {name} | | void |"]
    return "\n".join(lines) + "\n"


def to_json(report):
    return json.dumps(report, indent=1) + "\n"
