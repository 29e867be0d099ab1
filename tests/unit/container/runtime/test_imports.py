"""What the runtime imports: little, because each module costs every container, and nothing later."""

import subprocess
import sys

#: The standard library's modules that `vapp-oci create` may have loaded beyond what Python starts with.
ALLOWED = {
    "__future__", "_collections_abc", "_ctypes", "_json", "_socket", "_stat", "_struct", "ctypes", "ctypes._endian",
    "errno", "fcntl", "genericpath", "os", "os.path", "posixpath", "select", "stat", "struct", "termios", "types",
}  # fmt: skip


def loaded(code):
    path = [entry for entry in sys.path if entry]
    prefix = f"import sys; before = set(sys.modules); sys.path[:0] = {path!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", prefix + code + "\nprint('\\n'.join(set(sys.modules) - before))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_creating_a_container_loads_nothing_slow():
    found = {name for name in loaded("import container.runtime.cli") if name.split(".")[0] != "container"}
    assert found <= ALLOWED


def test_the_package_is_executable_by_itself():
    from container.runtime import __main__

    done = subprocess.run(
        [sys.executable, "-IS", __main__.__file__, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("runc version ")


def test_after_sealing_an_import_fails_instead_of_reading_the_image():
    code = (
        "from container.runtime.process import seal_imports\n"
        "modules = set(sys.modules); seal_imports()\n"
        "try: import colorsys\nexcept ImportError: pass\nelse: raise SystemExit('imported')\n"
        "try: open('/dev/null', encoding='koi8-r')\nexcept LookupError: pass\nelse: raise SystemExit('codec')\n"
    )
    loaded(code)
