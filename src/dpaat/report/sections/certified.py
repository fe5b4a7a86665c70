"""Report section: certified accuracy by randomized smoothing, beside that under attack."""

from dpaat.radii import format_radius
from dpaat.report.blocks import Block, Figures, Heading, register_section
from dpaat.report.comparison import Report
from dpaat.report.figures import line_plot
from dpaat.tables import Row, Table, percent


@register_section("certified", "What is proven", order=35)
def certified(report: Report) -> list[Block]:
    """Curves and shares of every run that was certified."""
    blocks: list[Block] = []
    for comparison in report.comparisons:
        for name in comparison.runs:
            for entry in comparison.analyses(name, "certified"):
                lines, rows = {}, []
                for each in entry["noise"]:
                    noise = f"sigma {each['sigma']:g}"
                    for first, kind in (("accuracy", "certified"), ("voted", "attacked")):
                        shares = [each[first], *each[kind]]
                        lines[f"{kind}, {noise}"] = list(zip([0.0, *entry["eps"]], shares, strict=True))
                    shares = [each["accuracy"], each["abstains"], *each["certified"]]
                    rows.append(Row(noise, [percent(share) for share in shares]))
                caption = (
                    f"{name}: share of images whose right answer is certified, and share that withstands PGD on the "
                    "smoothed classifier. The truth lies between the two."
                )
                x_label, y_label = f"radius ({entry['norm']})", "share of images"
                heads = ["at 0", "abstains", *(f"certified at {format_radius(eps)}" for eps in entry["eps"])]
                note = (
                    f"{entry['draws']:,} noise draws an image; each certificate is wrong with a chance of at most "
                    f"{entry['alpha']:g}. A radius R in L2 certifies R / sqrt(values of an image) in Linf."
                )
                blocks += [
                    Heading(f"Certified accuracy of {name}: {comparison.title}"),
                    Figures([line_plot(lines, x_label=x_label, y_label=y_label, caption=caption, radii=True)]),
                    Table("percent", heads, rows, note=note),
                ]
    return blocks
