#!/bin/sh
# Print the Python that makes the environment: PYTHON if it is given, else the environment's own, else the first
# of python3, python3.13, python3.12, python3.11 and python3.14 that is 3.11 to 3.14. Otherwise one sentence and exit code 1.

version_is() {
    "$1" -c "import sys; sys.exit(not ($2))" >/dev/null 2>&1
}

if [ -n "$PYTHON" ]; then
    if ! version_is "$PYTHON" "True"; then
        echo "PYTHON=$PYTHON does not run: give the path of a Python 3.11 to 3.14." >&2
        exit 1
    fi
    if ! version_is "$PYTHON" "sys.version_info >= (3, 11)"; then
        found=$("$PYTHON" -c "import sys; print('%d.%d' % sys.version_info[:2])")
        echo "PYTHON=$PYTHON is Python $found, too old: give the path of a Python 3.11 to 3.14." >&2
        exit 1
    fi
    command -v "$PYTHON"
    exit 0
fi

for candidate in "${VENV:-.venv}/bin/python" "${VENV:-.venv}/Scripts/python" python3 python3.13 python3.12 python3.11 python3.14; do
    if version_is "$candidate" "(3, 11) <= sys.version_info < (3, 15)"; then
        command -v "$candidate"
        exit 0
    fi
done
found=$(python3 -c "import platform; print('python3 is ' + platform.python_version())" 2>/dev/null)
echo "Python 3.11 to 3.14 is needed (${found:-there is no python3}): install one or name it with PYTHON=..." >&2
exit 1
