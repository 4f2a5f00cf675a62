"""Check a study's config and print it with all defaults, or print the JSON schema of configs for an editor."""

import argparse
import json
import sys
from pathlib import Path

import yaml

from baselines import METHODS
from study.definition import checks, config
from study.running.workflow import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("config", type=Path, nargs="?", help="e.g. config/mini.yaml")
    what.add_argument("--schema", action="store_true", help="print the JSON schema, e.g. into config/schema.json")
    a = parser.parse_args()
    if a.schema:
        print(json.dumps(config.schema(METHODS), indent=2))
    else:
        study = config.read(a.config, METHODS)
        yaml.safe_dump(study, sys.stdout, sort_keys=False, allow_unicode=True)
        for note in checks.notes(study, METHODS):
            print(note, file=sys.stderr)


if __name__ == "__main__":
    run(main)
