"""Progress bars: shown on a terminal, in the main process, and nowhere else."""

import io
import sys

import pytest
from accelerate import PartialState

from hf_langimb import extract_features
from hf_langimb.console import RESUMES, bar, ends_in_words, hidden


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "main", "expected"), [(Terminal, True, False), (Terminal, False, True), (io.StringIO, True, True)]
)
def test_bars_are_for_those_who_look_on(monkeypatch, stream, main, expected):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(PartialState, "is_main_process", main)
    assert hidden() is expected
    assert list(bar(range(3), "Counting")) == [0, 1, 2]
    assert ("Counting" in sys.stderr.getvalue()) is not expected


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_features_show_how_far_they_are(monkeypatch, bert_tokenizer, tiny_bert, tiny_dataset, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    extract_features(tiny_bert(), bert_tokenizer, tiny_dataset(bert_tokenizer))
    assert ("Extracting features" in sys.stderr.getvalue()) is (stream is Terminal)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("no such\n  file \x1b[2J"), 1, "xnli.py: no such file [2J\n"),
        (KeyError("weights"), 1, "xnli.py: KeyError: 'weights' (LANGIMB_DEBUG=1 shows the traceback)\n"),
        (AssertionError(), 1, "xnli.py: AssertionError: (LANGIMB_DEBUG=1 shows the traceback)\n"),
        (KeyboardInterrupt(), 130, "xnli.py: interrupted; the same command continues after the finished steps\n"),
    ],
)
def test_a_program_ends_without_a_traceback_unless_it_is_asked_for(capsys, monkeypatch, error, code, said):
    with pytest.raises(SystemExit) as stop, ends_in_words("xnli.py", RESUMES):
        raise error
    assert stop.value.code == code and capsys.readouterr().err == said
    monkeypatch.setenv("LANGIMB_DEBUG", "1")
    with pytest.raises(type(error) if code == 1 else SystemExit), ends_in_words("xnli.py"):
        raise error
