"""Progress bars are shown on a terminal, in the main process, and nowhere else; programs end in words."""

import io
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from accelerate import PartialState

from hf_langimb import extract_features
from hf_langimb.console import bar, hidden
from hf_langimb.runs import evaluate, experiment


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "main", "expected"), [(Terminal, True, False), (Terminal, False, True), (io.StringIO, True, True)]
)
def test_bars_are_for_those_who_look_on(monkeypatch, bert_tokenizer, tiny_bert, rows, stream, main, expected):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(PartialState, "is_main_process", main)
    assert hidden() is expected and list(bar(range(3), "Counting")) == [0, 1, 2]
    extract_features(tiny_bert(), bert_tokenizer, rows)
    assert all((name in sys.stderr.getvalue()) is not expected for name in ("Counting", "Extracting features"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("no such\n  file \x1b[2J"), 1, "xnli.py: no such file [2J\n"),
        (KeyError("weights"), 1, "xnli.py: KeyError: 'weights' (LANGIMB_DEBUG=1 shows the traceback)\n"),
        (AssertionError(), 1, "xnli.py: AssertionError: (LANGIMB_DEBUG=1 shows the traceback)\n"),
        (
            KeyboardInterrupt(),
            130,
            "xnli.py: interrupted; run the same command again to continue after the finished steps\n",
        ),
    ],
)
def test_a_program_ends_without_a_traceback_unless_it_is_asked_for(capsys, monkeypatch, error, code, said):
    monkeypatch.setattr(sys, "argv", ["xnli.py"])
    monkeypatch.setattr(experiment, "parse_recipe", Mock(side_effect=error))
    monkeypatch.setattr(evaluate, "check_up", Mock(side_effect=error))
    with pytest.raises(SystemExit) as stop:
        experiment.main("xnli", Path())
    assert stop.value.code == code and capsys.readouterr().err == said
    monkeypatch.setenv("LANGIMB_DEBUG", "1")
    with pytest.raises(type(error) if code == 1 else SystemExit):
        evaluate.main(["model", "rows.csv"])
    assert capsys.readouterr().err == ("" if code == 1 else said.replace("xnli.py", "evaluate.py"))
