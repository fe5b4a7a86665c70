import json

import gpu_check


def test_the_script_works_before_there_is_a_gpu(tmp_path, capsys):
    out = tmp_path / "check.json"
    assert gpu_check.main(["--dry", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["failed"] == []
    assert found["dry"]
    assert {check.__name__ for check in gpu_check.CHECKS} <= found.keys()
    assert found["verdicts"]["pgd"]["differ"] == 0
    assert found["resume"]["tensors"] > 10
    assert found["methods"]["pgd"]["over_floor"]["median"] > 0
    waits = {name: found["methods"][name]["waits_per_step"] for name in ("dpaat", "dpaat, static shapes")}
    assert waits["dpaat, static shapes"] < waits["dpaat"]
    assert not any(place.startswith("pgd.py") for place in found["methods"]["dpaat, static shapes"]["waits"])
    assert all(each["images_per_second"] > 0 for name, each in found["variants"].items() if name != "seconds")
    assert "failed: none" in capsys.readouterr().out


def test_a_check_that_fails_is_noted_and_the_next_one_begins(tmp_path, monkeypatch):
    def broken(setting):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu_check, "CHECKS", (broken, gpu_check.one_process))
    assert gpu_check.main(["--dry", "--out", str(tmp_path / "check.json")]) == 1
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["failed"] == ["broken"]
    assert "no such kernel" in found["broken"]["error"]
    assert found["one_process"]["ok"]


def test_what_no_time_is_left_for_is_left_out(tmp_path):
    assert gpu_check.main(["--dry", "--minutes", "0", "--out", str(tmp_path / "check.json")]) == 0
    assert json.loads((tmp_path / "check.json").read_text())["peers"]["left out"] == "time is up"
