"""Every constant that claims to come from a kernel header has that header's value."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "container"

#: Heading above a group: `# include/uapi/linux/mount.h`, with or without remarks behind it.
HEADING = re.compile(r"^# include/uapi/((?:linux|asm-generic)/[\w/]+\.h)")

#: What user space includes instead of a header of that name in the kernel's tree.
INCLUDED = {"asm-generic/unistd.h": "asm/unistd.h"}

#: Headers whose constants stand below another heading now and then.
ALWAYS = ("sys/socket.h", "linux/fcntl.h", "linux/if.h", "asm/unistd.h")


def _collect() -> dict[str, dict[str, int]]:
    """Return header -> constant -> our value."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        if not re.search(HEADING.pattern, text, re.MULTILINE):
            continue
        module = importlib.import_module("container." + ".".join(path.relative_to(SOURCE).with_suffix("").parts))
        for header, name in _named(text):
            value = getattr(module, name)
            if isinstance(value, int) and not isinstance(value, bool):
                found.setdefault(header, {})[name] = value
    return found


def _named(text: str) -> list[tuple[str, str]]:
    """Return (header, constant) for the assignments below each heading, up to the next comment or definition."""
    header, found = "", []
    for line in text.splitlines():
        heading = HEADING.match(line)
        if heading:
            header = heading.group(1)
        elif line.startswith(("#", "class ", "def ")):
            header = ""
        elif header and (name := re.match(r"^(_?[A-Z]\w*)\s*=", line)):
            found.append((header, name.group(1)))
    return found


CONSTANTS = _collect()


def _c_names(name: str) -> list[str]:
    """Return what the header may call it: ours are private with an underscore, system calls have two."""
    bare = name.removeprefix("_")
    return [f"__{bare}"] if bare.startswith("NR_") else list(dict.fromkeys((bare, name)))


def _compile(directory: Path, header: str, names: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Compile a program that prints ours -> theirs."""
    includes = "".join(f"#include <{one}>\n" for one in ("stdio.h", *ALWAYS, INCLUDED.get(header, header)))
    prints = "".join(f'  printf("{our} %llu\\n", (unsigned long long)({c}));\n' for our, c in names.items())
    (directory / "constants.c").write_text(f"{includes}int main(void) {{\n{prints}}}\n")
    return subprocess.run(
        ["gcc", "-w", "-fmax-errors=0", "-o", directory / "constants", directory / "constants.c"],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )


def _settle(directory: Path, header: str, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return our name -> the header's name for those it has, and the names that it lacks."""
    candidates = {name: _c_names(name) for name in names}
    lacking: list[str] = []
    while True:
        chosen = {name: some[0] for name, some in candidates.items()}
        result = _compile(directory, header, chosen)
        if "No such file or directory" in result.stderr:
            pytest.skip(f"the header <{header}> is not installed")
        absent = set(re.findall(r"'(\w+)' undeclared", result.stderr))
        if not absent:
            assert result.returncode == 0, result.stderr
            return chosen, lacking
        for name, c_name in chosen.items():
            if c_name in absent:
                candidates[name].pop(0)
                if not candidates[name]:
                    del candidates[name]
                    lacking.append(name)


def test_there_are_constants_to_compare():
    assert len(CONSTANTS) > 5
    assert sum(map(len, CONSTANTS.values())) > 80


@pytest.mark.parametrize("header", sorted(CONSTANTS))
def test_constants_are_those_of_the_header(header, tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("`gcc` is not installed")
    ours = CONSTANTS[header]
    known, lacking = _settle(tmp_path, header, list(ours))
    output = subprocess.run([tmp_path / "constants"], capture_output=True, text=True, check=True).stdout
    theirs = {name: int(value) for name, value in (line.split() for line in output.splitlines())}
    assert {name: ours[name] & (1 << 64) - 1 for name in known} == theirs
    # A private name that no header has is a number of ours that stands below the group.
    public = [name for name in lacking if not name.startswith("_")]
    if public:
        pytest.skip(f"the installed <{header}> lacks {', '.join(public)}; the other {len(known)} are equal")
