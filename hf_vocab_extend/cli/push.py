"""``hf-vocab-extend push``: upload a saved folder to the Hub in one commit."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from .common import Answer, Command, given, option_adder

OPTIONS = ("private", "token", "revision", "create_pr", "commit_message")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="a folder that extend has saved")
    parser.add_argument("repo_id", metavar="REPO_ID", help="user/name; created if it does not exist")
    add = option_adder(parser, "hub.push", "push_folder")
    add("--private", "a new repository is private; one that exists must be", action="store_true")
    add("--public", "a new repository is public", action="store_false", dest="private")
    add("--no-private", "the same as --public", action="store_false", dest="private")
    add("--token", "a token with write access (default: the saved one, or HF_TOKEN)", metavar="TOKEN")
    add("--revision", "branch to commit to; created if it does not exist", metavar="BRANCH")
    add("--create-pr", "open a pull request instead of committing", action="store_true")
    add("--commit-message", "first line of the commit", metavar="TEXT")
    add("--message", "the same as --commit-message", metavar="TEXT", dest="commit_message")


def run(args: Namespace) -> Answer:
    """Upload."""
    from ..hub.push import push_folder

    commit = push_folder(args.folder, args.repo_id, **given(args, OPTIONS))
    address = commit.pr_url or commit.commit_url
    data = {"repo_id": commit.repo_url.repo_id, "commit_url": commit.commit_url, "pr_url": commit.pr_url}
    return Answer(data | {"oid": commit.oid}, f"Pushed: {address}")


COMMAND = Command(
    name="push",
    summary="Upload a saved folder to the Hub in one commit.",
    examples=(
        "hf-vocab-extend push ./bert-sw me/bert-sw --private",
        "hf-vocab-extend push ./bert-sw me/bert-sw --create-pr --format json",
        'hf-vocab-extend push ./bert-sw me/bert-sw --revision trial --message "Trained for an hour"',
    ),
    add_arguments=add_arguments,
    run=run,
)
