"""Records name the kernels and sources that they are of, documents say so, and a release is of those as they are."""

import json
import shutil

import pytest


def test_a_table_says_of_which_sources_it_is_and_that_they_have_moved_on(load, monkeypatch):
    provenance = load("provenance")
    here = {"digest": "kernels", "selection": "host", "cpu_sources": "cpu", "host_sources": "calls"}
    monkeypatch.setattr(provenance, "current", here.get)
    gpu = {"gpu": "GPU"} | provenance.facts(gpu="GPU")
    assert gpu == {"gpu": "GPU", "digest": "kernels", "selection": "host"}
    assert provenance.lines([gpu, gpu]) == ["Made with kernels kernels, host selection host."]
    old = gpu | {"selection": "older"}
    first, verdict = provenance.lines([gpu, gpu, old])
    assert first == "Made with kernels kernels, host selection host (2) and older (1)."
    assert verdict == "The sources have moved on since: host selection."
    assert provenance.moved([{"gpu": "GPU", "digest": "kernels"}]) == ["host selection"], (
        "not recorded: not known to be"
    )
    monkeypatch.setitem(here, "digest", None)
    assert provenance.moved([old | {"digest": "other"}]) == ["host selection"], "nothing compiled to compare with"
    assert provenance.lines([provenance.facts()]) == ["Made with CPU sources cpu."]
    assert provenance.facts(benchmark="host") == {"host_sources": "calls"}
    text = f"a\n{first}\n{verdict}\n\n| b |\n"
    assert provenance.without_verdict(text) == f"a\n{first}\n\n| b |\n"


@pytest.mark.parametrize(
    ("edited", "keys"),
    [
        ("schedule/tiling.c", {"selection", "cpu_sources"}),
        ("ops/dense_decode/cuda.c", {"selection", "host_sources"}),
        ("ops/dense_decode/cpu.c", {"cpu_sources", "host_sources"}),
        ("cuda/select.c", {"selection"}),
        ("cpu/isa.c", {"cpu_sources"}),
        ("core/operation.c", {"host_sources"}),
    ],
)
def test_the_sources_of_a_record_are_those_that_decide_it(load, tmp_path, monkeypatch, edited, keys):
    provenance = load("provenance")
    copied = tmp_path / "libflashmla" / "src"
    shutil.copytree(provenance.SOURCE, copied)
    shutil.copytree(provenance.PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("*.so*", "__pycache__"))
    for name, value in {"ROOT": tmp_path, "SOURCE": copied, "PACKAGE": tmp_path / "package"}.items():
        monkeypatch.setattr(provenance, name, value)

    def hashes():
        return {key: provenance.current(key) for key in ("selection", "cpu_sources", "host_sources")}

    before = hashes()
    with (copied / edited).open("a") as file:
        file.write("/* a comment */\n")
    assert hashes() == before
    with (copied / edited).open("a") as file:
        file.write("int fm_changed;\n")
    assert {key for key, value in hashes().items() if value != before[key]} == keys


def test_a_release_is_refused_where_the_sources_have_moved_on(load, tmp_path, monkeypatch, capsys):
    """And only there: nothing else in CI looks at it."""
    check, provenance, plots = load("check_release"), load("provenance"), load("plots")
    readme_section = load("readme_section")
    here = {"digest": "kernels", "selection": "host", "cpu_sources": "cpu", "host_sources": "calls"}
    monkeypatch.setattr(provenance, "current", here.get)
    monkeypatch.setattr(check.digest, "current", lambda: here["digest"])
    record = {"benchmark": "dense_decode", "gpu": "GPU", "driver": "580", "dtype": "bfloat16", "op": "dense_decode"}
    record |= {"case": [1, 1, 8, 128], "us": 100.0, "us_planned": 101.0, "us_cold": 110.0, "limit_us": 80.0}
    record |= {"spread": 0.01, "rel_err": 1e-3, "peers": {}, "peers_cold": {}, **provenance.facts(gpu="GPU")}
    results, readme, page = tmp_path / "results", tmp_path / "README.md", tmp_path / "page.md"
    results.mkdir()
    (results / "some.jsonl").write_text(json.dumps(record) + "\n")
    monkeypatch.setattr(readme_section, "RESULTS", results)
    monkeypatch.setattr(readme_section, "README", readme)
    for name, value in {"RESULTS": results, "PAGE": page, "PLOTS": tmp_path / "plots"}.items():
        monkeypatch.setattr(plots, name, value)
    readme.write_text(f"before\n{readme_section.BEGIN}old\n{readme_section.END}after\n")
    page.write_text("<!-- dense_decode: made by benchmarks/plots.py -->\nold\n<!-- end of dense_decode -->\n")

    def write():
        plots.main()
        before, _, after = readme_section.parts(readme.read_text())
        readme.write_text(before + readme_section.BEGIN + readme_section.current() + readme_section.END + after)

    write()
    assert check.main() == 0
    assert provenance.MOVED not in readme.read_text() + page.read_text()
    monkeypatch.setitem(here, "selection", "another")
    assert check.main() == 1
    assert "README.md, GPU, driver 580: records of other host selection than these" in capsys.readouterr().out
    write()
    for document in (readme, page):
        assert "The sources have moved on since: host selection." in document.read_text()
    assert check.main() == 1, "saying so does not make a release"
    monkeypatch.setitem(here, "selection", "host")
    assert check.problems() == [
        "README.md: run python benchmarks/readme_section.py",
        "docs/performance.md: run python benchmarks/plots.py",
    ]
