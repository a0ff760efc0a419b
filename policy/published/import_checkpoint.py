"""`import-checkpoint`: a published checkpoint becomes one of ours, encoders included."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from telic.policy.atomic import CHECKPOINT
from telic.policy.checkpoint import LANGUAGE, save_checkpoint
from telic.policy.checkpoint_files import load_embeddings
from telic.policy.encoders.language import TOKENIZER_FILES
from telic.policy.policy import Policy
from telic.policy.published.import_arguments import parser
from telic.policy.published.imported import CheckpointImportOptions, Imported, read_json
from telic.policy.published.mdt import importer as import_mdt
from telic.policy.published.mode import importer as import_mode
from telic.policy.published.rdt import importer as import_rdt
from telic.registry import Registry
from telic.replacement import Replacement
from telic.spec import Array, Interface


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A kind of published checkpoint: how to tell it and how to read it."""

    holds: str  # what SRC is
    recognises: Callable[[Path], bool]
    read: Callable[[Path, CheckpointImportOptions], Imported]


# An import format is one file and one entry here.
SOURCES: Registry[Source] = Registry(
    "source",
    {
        "mode": Source(
            holds=f"a directory with config.yaml and {import_mode.WEIGHTS}",
            recognises=import_mode.recognises,
            read=import_mode.read,
        ),
        "mdt": Source(
            holds=f"a Lightning .ckpt with {import_mdt.CONFIG} in a folder above it, or the folder",
            recognises=import_mdt.recognises,
            read=import_mdt.read,
        ),
        "rdt": Source(
            holds=f"a folder with {import_rdt.CONFIG} and one of {', '.join(import_rdt.WEIGHTS)}",
            recognises=import_rdt.recognises,
            read=import_rdt.read,
        ),
    },
)


def import_checkpoint(
    source: Path,
    target: Path,
    options: CheckpointImportOptions,
    *,
    tokenizer: Path | None = None,
    vectors: Mapping[str, Array] | None = None,
    overwrite: bool = False,
) -> tuple[Imported, Policy]:
    """Return what was imported from `source` into directory `target`, and the policy.

    tokenizer: a folder with the files of the text tower's tokenizer. vectors: of sentences that
    need no text tower. overwrite: replace a checkpoint that is there. ValueError names what is
    missing or does not fit.
    """
    kind = recognise(source)
    read = _read_for(source, options)
    Replacement(target, CHECKPOINT, overwrite=overwrite, by="--overwrite", sources=read).require()
    if tokenizer is not None and not _tokenizer_files(tokenizer):
        wanted = " or ".join(TOKENIZER_FILES)
        raise ValueError(f"--tokenizer {tokenizer}: holds no {wanted}")
    try:
        imported = SOURCES[kind].read(source, options)
        policy = imported.build()
    except ValueError as error:
        if str(source) in str(error) or "--" in str(error):
            raise
        raise ValueError(f"{source}: {error}") from error
    policy.set_embeddings(vectors or {})

    def write_language(folder: Path) -> None:
        import transformers

        transformers.logging.disable_progress_bar()
        imported.language.save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
        for file in _tokenizer_files(tokenizer) if tokenizer is not None else ():
            shutil.copy(file, folder / file.name)

    save_checkpoint(
        target,
        policy,
        extra={"imported": {"kind": kind, "source": str(source), "dead": imported.dead}},
        write_language=write_language if imported.language is not None else None,
        overwrite=overwrite,
    )
    return imported, policy


def _read_for(source: Path, options: CheckpointImportOptions) -> list[Path]:
    """Return what is read besides the interface and sentences."""
    folders = (options.language, options.vision)
    return [source, *(Path(folder) for folder in folders if folder is not None)]


def recognise(source: Path) -> str:
    """Return which of SOURCES `source` is."""
    if not source.exists():
        raise ValueError(f"{source}: no such file or directory")
    for name, kind in SOURCES.items():
        if kind.recognises(source):
            return name
    known = "; ".join(f"{name}: {kind.holds}" for name, kind in SOURCES.items())
    raise ValueError(f"{source}: no published checkpoint that is known ({known})")


def _tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a tokenizer in `folder`; none if it lacks the one that matters."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return []
    patterns = ("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 0, 2 on bad input."""
    args = parser().parse_args(arguments)
    try:
        options = CheckpointImportOptions(
            interface=_interface(args.interface),
            raw=args.raw,
            language=args.language,
            vision=args.vision,
        )
        imported, policy = import_checkpoint(
            args.source,
            args.target,
            options,
            tokenizer=args.tokenizer,
            vectors=load_embeddings(args.embeddings) if args.embeddings else {},
            overwrite=args.overwrite,
        )
        _report(imported, policy, args.target)
    except ValueError as error:
        print(f"import-checkpoint: {error}", file=sys.stderr)
        sys.exit(2)


def _interface(path: Path | None) -> Interface | None:
    if path is None:
        return None
    spec = read_json(path)
    try:
        return Interface.from_json(spec.get("interface", spec))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: describes no interface ({error!r})") from error


def _report(imported: Imported, policy: Policy, target: Path) -> None:
    size = sum(parameter.numel() for parameter in policy.parameters())
    print(f"{target}: {policy.kind}, {size:,} parameters, from {imported.source}")
    for name, reason in imported.dead.items():
        print(f"  not used: {name} ({reason})")
    known = len(policy.known_embeddings)
    folder = target / LANGUAGE
    if folder.is_dir() and not _tokenizer_files(folder):
        print(
            f"  no tokenizer: it understands the {known} sentences of --embeddings alone; put "
            f"CLIP's vocab.json and merges.txt into {folder} for any other"
        )


if __name__ == "__main__":
    main()
