"""`vappc completion bash|zsh|fish`: scripts made from the parser itself, so that they are never behind."""

import argparse
import sys
from collections.abc import Iterator

#: Verbs whose argument is the name of a container, and those that take an image.
_CONTAINERS = ("exec", "inspect", "kill", "logs", "pause", "resume", "rm", "stop", "wait")
_IMAGES = ("run", "pull")


def configure(_: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the verb's options."""
    parser.epilog = "example: put `source <(vappc completion bash)` into ~/.bashrc"
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Print the script."""
    from vappc.cli.main import VERBS, build_parser

    verbs = {name: text for name, (_, text) in VERBS.items()}
    flags = dict(_flags(build_parser(None)))
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    sys.stdout.write(scripts[options.shell](verbs, flags))
    return 0


def _flags(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                yield name, [word for found in verb._actions for word in found.option_strings]


def _bash(verbs: dict[str, str], flags: dict[str, list[str]]) -> str:
    cases = "".join(f'        {name}) flags="{" ".join(words)}" ;;\n' for name, words in flags.items())
    return f"""\
_vappc() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} verb="" flags="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            --socket) ((i++)) ;;
            -*) ;;
            *) verb=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    if [ -z "$verb" ]; then
        COMPREPLY=($(compgen -W "--socket --help {" ".join(verbs)}" -- "$word"))
        return
    fi
    case $verb in
{cases}    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
        return
    fi
    case $verb in
        {"|".join(_CONTAINERS)}) COMPREPLY=($(compgen -W "$(vappc ps -a -q 2>/dev/null)" -- "$word")) ;;
        {"|".join(_IMAGES)}) COMPREPLY=($(compgen -W "$(_vappc_images)" -- "$word")) ;;
        completion) COMPREPLY=($(compgen -W "bash zsh fish" -- "$word")) ;;
        image) COMPREPLY=($(compgen -W "inspect load rm" -- "$word")) ;;
        *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}}
_vappc_images() {{
    vappc images 2>/dev/null | awk 'NR > 1 {{print $1}}'
}}
complete -F _vappc vappc
"""


def _zsh(verbs: dict[str, str], flags: dict[str, list[str]]) -> str:
    lines = "".join(f"        '{name}:{text}'\n" for name, text in verbs.items())
    cases = "".join(f"        {name}) compadd -- {' '.join(words)} ;;\n" for name, words in flags.items())
    return f"""\
#compdef vappc
_vappc() {{
    local -a verbs
    verbs=(
{lines}    )
    if (( CURRENT == 2 )); then
        _describe verb verbs
        return
    fi
    if [[ $PREFIX == -* ]]; then
        case $words[2] in
{cases}        esac
        return
    fi
    case $words[2] in
        {"|".join(_CONTAINERS)}) compadd -- ${{(f)"$(vappc ps -a -q 2>/dev/null)"}} ;;
        completion) compadd bash zsh fish ;;
        image) compadd inspect load rm ;;
        *) _files ;;
    esac
}}
compdef _vappc vappc
"""


def _fish(verbs: dict[str, str], flags: dict[str, list[str]]) -> str:
    lines = ["complete -c vappc -f"]
    lines += [f"complete -c vappc -n __fish_use_subcommand -a {name} -d '{text}'" for name, text in verbs.items()]
    for name, words in flags.items():
        for word in words:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}"
            lines.append(f"complete -c vappc -n '__fish_seen_subcommand_from {name}' {kind}")
    lines += [
        f"complete -c vappc -n '__fish_seen_subcommand_from {name}' -a '(vappc ps -a -q 2>/dev/null)'"
        for name in _CONTAINERS
    ]
    return "\n".join(lines) + "\n"
