"""The command line of `import-checkpoint`; it needs no torch."""

from __future__ import annotations

from pathlib import Path

from telic.command_line import Parser

DESCRIPTION = """A published checkpoint becomes one of ours, encoders included.

SRC is what was published:
  MoDE   a directory with config.yaml and model_cleaned.safetensors
  MDT    a Lightning .ckpt, with .hydra/config.yaml in a folder above it; MDT-V likewise
  RDT    a directory with config.json and model.safetensors or pytorch_model.bin"""
EXAMPLES = """examples:
  import-checkpoint MoDE_CALVIN_ABC_1/ runs/mode_abc \\
      --tokenizer clip-vit-base-patch32/
  import-checkpoint logs/mdt_d/saved_models/epoch=19.ckpt runs/mdt_d \\
      --embeddings sentences.safetensors
  import-checkpoint rdt-1b/ runs/rdt --interface spec.json \\
      --vision siglip/ --language t5-v1_1-xxl/"""


def parser() -> Parser:
    """The parser of the command line."""
    parser = Parser.of("import-checkpoint", DESCRIPTION, EXAMPLES)
    parser.add_argument("source", metavar="SRC", type=Path, help="the published checkpoint")
    parser.add_argument(
        "target", metavar="DST", type=Path, help="the checkpoint directory to write"
    )
    parser.add_argument(
        "--interface",
        type=Path,
        metavar="FILE",
        help="spec.json of a checkpoint for the robot to act on (state and image sizes, names, "
        "rate); its cameras in the published order; without it CALVIN's",
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="files of the text tower's tokenizer"
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="embeddings.safetensors with vectors of sentences, where no tokenizer is at hand",
    )
    parser.add_argument(
        "--language", type=Path, metavar="DIR", help="RDT: folder of T5-XXL and its tokenizer"
    )
    parser.add_argument("--vision", type=Path, metavar="DIR", help="RDT: folder of SigLIP")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint at DST")
    parser.add_argument("--raw", action="store_true", help="the raw weights, not their average")
    return parser
