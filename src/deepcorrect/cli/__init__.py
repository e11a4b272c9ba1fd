"""The `deepcorrect` command: results on stdout, everything else on stderr."""

from deepcorrect.cli._analyse import analyse
from deepcorrect.cli._app import app, main, register
from deepcorrect.cli._correct import correct
from deepcorrect.cli._distort import distort
from deepcorrect.cli._evaluate import evaluate_
from deepcorrect.cli._export import export
from deepcorrect.cli._list import list_
from deepcorrect.cli._predict import predict
from deepcorrect.cli._push import push
from deepcorrect.cli._rank import rank
from deepcorrect.cli._run import report, run
from deepcorrect.cli._transfer import transfer

__all__ = ["app", "main"]

for function in (
    run,
    evaluate_,
    rank,
    correct,
    transfer,
    predict,
    export,
    push,
    distort,
    report,
    analyse,
    list_,
):  # as --help has it
    register(function)
