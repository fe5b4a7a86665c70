"""The one table model, in its three forms."""

import io

import pytest
from rich.console import Console

from dpaat.tables import Cell, Column, Row, Table, percent, score_cell

TABLE = Table(
    "run",
    [Column("acc.", group="2/255"), Column("mAP", group="2/255"), "n", Column("verdict", left=True)],
    [
        Row("always [nv]", [score_cell(0.67), score_cell(None), "10", Cell("-")], quiet=True),
        Row("a|b <i>", [score_cell(0.564, (0.53, 0.599), kind="key"), "7.0", "1,000", Cell("masked", kind="fail")]),
    ],
    title="ham10000, [bold]test",
    note="see `dpaat list | cat` & more",
)


def printed(table: Table, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(table.to_rich())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_terminal():
    title, heads, _, quiet, row, *rest = printed(TABLE)
    assert title == "ham10000, [bold]test"
    assert heads.split() == ["run", "acc.", "mAP", "n", "verdict"]
    assert quiet.split() == ["always", "[nv]", "67.0", "-", "10", "-"]
    assert row.split() == ["a|b", "<i>", "56.4", "[53.0,", "59.9]", "7.0", "1,000", "masked"]
    assert rest == [""]


def test_nothing_is_lost_where_a_terminal_is_narrow():
    name = "a-very-long-name-of-a-benchmark's-cell"
    text = "".join("".join(printed(Table("cell", ["passes"], [Row(name, ["12,345.67"])]), width=24)).split())
    assert "…" not in text
    assert all(character in text for character in name)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_columns_that_have_no_room_follow_below(width):
    columns = [f"APGD-CE-{k}" for k in range(14)]
    rows = [Row(name, [score_cell(0.1 + k / 100, (0.1, 0.9)) for k in range(14)]) for name in ("mel", "nv")]
    lines = printed(Table("class", columns, rows), width=width)
    assert all(len(line) <= width for line in lines)
    words = [word for line in lines for word in line.split()]
    assert [word for word in words if word.startswith("APGD")] == columns
    assert [words.count(f"{10 + k}.0") for k in range(14)] == [2] * 14
    assert words.count("mel") == words.count("class")


def test_markdown():
    lines = TABLE.to_markdown().splitlines()
    assert lines == [
        "| run | 2/255 acc. | 2/255 mAP | n | verdict |",
        "| --- | ---: | ---: | ---: | --- |",
        r"| always \[nv\] | 67.0 | - | 10 | - |",
        r"| a\|b \<i\> | **56.4** [53.0, 59.9] | 7.0 | 1,000 | masked |",
        "",
        r"see `dpaat list \| cat` & more",
    ]


def test_html():
    html = str(TABLE.to_html())
    assert '<th colspan="2" class="group start" scope="colgroup">2/255</th>' in html
    assert '<th scope="row" title="a|b &lt;i&gt;">a|b &lt;i&gt;</th>' in html
    assert '<td class="start key">56.4<small>[53.0, 59.9]</small></td>' in html
    assert '<td class="text"><span class="fail">masked</span></td>' in html
    assert '<tr class="floor">' in html
    assert '<p class="note">see <code>dpaat list | cat</code> &amp; more</p>' in html
    assert "<details" not in html


@pytest.mark.parametrize(("opened", "begins"), [(False, "<details><summary>"), (True, "<details open><summary>")])
def test_html_folds_a_table_away(opened, begins):
    html = str(Table("a", ["b"], [], folded="7 classes & more", open=opened).to_html())
    assert html.startswith(begins + "7 classes &amp; more</summary>")
    assert html.rstrip().endswith("</details>")


def test_scores():
    assert (percent(None), percent(0.5)) == ("-", "50.0")
    assert score_cell(-0.021, (-0.05, 0.01), sign=True, more=" p 0.2") == Cell("-2.1", "[-5.0, 1.0] p 0.2")
    assert score_cell(0.0, (0.0, 0.0), sign=True, more=" p 1") == Cell("+0.0", "none differs p 1")
    assert score_cell(0.0, (0.0, 0.0)) == Cell("0.0", "[0.0, 0.0]")
    assert score_cell(-0.02, (-9e12, 9e12), sign=True) == Cell("-2.0", "[-100.0, 100.0]")
    assert score_cell(None, (0.1, 0.2)) == Cell("-")
