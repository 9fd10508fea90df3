#!/usr/bin/env bash
# Makes a checkout ready: system packages, the virtual environment, compiled code, the broker's jars. Run again at any
# time: a step whose inputs did not change is skipped by a stamp of their content, so a second run takes well under two
# seconds.
# Package sources are whatever this machine is configured for; none is named here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stamps=.driftline/setup
mkdir -p "$stamps"
exec 9>"$stamps/lock" && flock 9   # two runs at once take turns

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# `pip config get` does not read the machine-wide file, `pip config list` does.
pip_setting() { .venv/bin/pip config list 2>/dev/null | sed -n "s/^global\.$1='\(.*\)'\$/\1/p" | tail -1; }
content() { { printf '%s\n' "$@"; cat -- "${files[@]}"; } | sha256sum | cut -d' ' -f1; }
done_before() { [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ]; }

# 1. system packages -------------------------------------------------------------------------------------------------
java_17() { have java && java -version 2>&1 | grep -qE 'version "(1[7-9]|[2-9][0-9])'; }
usable_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

python=$(command -v python3.11 || true)
missing=()
[ -n "$python" ] || missing+=(python3.11 python3.11-venv)
if [ -n "$python" ] && [ ! -x .venv/bin/pip ] && ! usable_venv; then missing+=(python3.11-venv); fi
java_17 || missing+=(java-runtime)
[ -n "$(ls .driftline/kafka/libs/kafka_*.jar 2>/dev/null)" ] || have mvn || missing+=(maven)
{ have prometheus && have promtool; } || missing+=(prometheus)
have prometheus-alertmanager || have alertmanager || missing+=(prometheus-alertmanager)
have strace || missing+=(strace)   # tests kill and fail the compactor at single system calls

# The packages start their daemons when they are installed. For the time of the installation a policy says no, unless
# the machine has a policy of its own; what we installed is also kept from starting with the machine. Nothing that ran
# before is touched.
policy=/usr/sbin/policy-rc.d
root=()
become_root() {
    if [ "$(id -u)" != 0 ]; then
        if have sudo && sudo -n true 2>/dev/null; then root=(sudo -n); else
            die "not there: ${missing[*]}. This account may not install packages; as root run:
    apt-get install --no-install-recommends ${missing[*]/java-runtime/openjdk-17-jre-headless}"
        fi
    fi
    have apt-get || die "not there: ${missing[*]}. No apt-get here: install these with this system's own tools"
    "${root[@]}" apt-get update -qq
}
install_packages() {
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
        "${root[@]}" chmod 755 "$policy"
        trap '"${root[@]}" rm -f "$policy"' EXIT
    fi
    "${root[@]}" mkdir -p /usr/share/man/man1   # slim images lack it, and the Java package's script fails without
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "${packages[@]}" >"$stamps/apt.log" 2>&1 ||
        { tail -20 "$stamps/apt.log" >&2; die "apt-get failed; all of it stands in $stamps/apt.log"; }
    for service in "${packages[@]}"; do
        case $service in prometheus*) "${root[@]}" update-rc.d "$service" disable >/dev/null 2>&1 || true ;; esac
    done
    [ ! -d /run/systemd/system ] || for service in "${packages[@]}"; do
        case $service in prometheus*) "${root[@]}" systemctl disable --now "$service" 2>/dev/null || true ;; esac
    done
    if [ "$(cat "$policy" 2>/dev/null)" = $'#!/bin/sh\nexit 101' ]; then "${root[@]}" rm -f "$policy"; fi
    trap - EXIT
}

if [ ${#missing[@]} -gt 0 ]; then
    become_root
    packages=("${missing[@]}")
    for i in "${!packages[@]}"; do
        if [ "${packages[$i]}" = java-runtime ]; then
            packages[i]=openjdk-17-jre-headless
            apt-cache show openjdk-17-jre-headless >/dev/null 2>&1 || packages[i]=default-jre-headless
        fi
    done
    say "installing ${packages[*]}"
    install_packages
    python=$(command -v python3.11) || die "python3.11 is still not there; this project needs Python 3.11"
    java_17 || die "expected a Java runtime of version 17 or newer, got: $(java -version 2>&1 | head -1)"
fi

# 2. the virtual environment -----------------------------------------------------------------------------------------
# uv does not read pip's configuration: where pip was given an index or a certificate, hand them on.
export SSL_CERT_FILE=${SSL_CERT_FILE:-${PIP_CERT:-}}
[ -n "$SSL_CERT_FILE" ] || unset SSL_CERT_FILE
pip_settings_to_uv() {
    local index certificate
    index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip_setting index-url)}}
    [ -z "$index" ] || export UV_DEFAULT_INDEX=$index
    certificate=${SSL_CERT_FILE:-$(pip_setting cert)}
    [ -z "$certificate" ] || export SSL_CERT_FILE=$certificate
}

files=(requirements-uv.lock requirements.lock)
wanted=$(content "$("$python" -c 'import sys; print(sys.version)')" "$PWD")
if ! done_before venv "$wanted" || [ ! -x .venv/bin/uv ]; then
    say "installing the locked packages into .venv (1.3 GB, about a minute)"
    [ -x .venv/bin/pip ] || "$python" -m venv --clear .venv   # a half-made one has python and no pip
    .venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock
    pip_settings_to_uv
    .venv/bin/uv pip install -q --python .venv/bin/python --require-hashes -r requirements.lock
    rm -f "$stamps/package"
    printf '%s' "$wanted" >"$stamps/venv"
fi

files=(pyproject.toml)
wanted=$(content "$PWD")
if ! done_before package "$wanted" || [ ! -x .venv/bin/driftline ]; then
    say "installing the driftline command"
    rm -rf driftline.egg-info   # an old one beside the code would answer first with its verbs
    .venv/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
    printf '%s' "$wanted" >"$stamps/package"
fi

# 3. what is compiled at its first call: the library's examples call it now ------------------------------------------------
files=(requirements.lock)
wanted=$(content "$("$python" -c 'import sys; print(sys.version)')" "$PWD")
if ! done_before compiled "$wanted"; then
    say "compiling the detectors (15 s)"
    if .venv/bin/python -m doctest docs/library.md >"$stamps/compiled.log" 2>&1; then printf '%s' "$wanted" >"$stamps/compiled"; else
        say "an example of docs/library.md failed, see $stamps/compiled.log; the first calls will be slow"
    fi
fi

# 4. the broker's jars -----------------------------------------------------------------------------------------------
files=(pom.xml kafka-jars.sha256)
wanted=$(content)
if ! done_before kafka "$wanted" || [ -z "$(ls .driftline/kafka/libs/kafka_*.jar 2>/dev/null)" ]; then
    say "fetching Kafka's jars"
    have mvn || die "not there: maven; install it and run this again"
    fresh=.driftline/kafka/libs.new   # beside the old ones, which a running broker may still open
    rm -rf "$fresh"
    mvn -B -q package -Dlibs="$PWD/$fresh"
    (cd "$fresh" && sha256sum --quiet -c ../../../kafka-jars.sha256) ||
        die "a jar is not the one that kafka-jars.sha256 names; if pom.xml was changed on purpose: make lock"
    [ "$(ls "$fresh" | wc -l)" = "$(wc -l <kafka-jars.sha256)" ] || die "a jar more than kafka-jars.sha256 names"
    rm -rf .driftline/kafka/libs && mv "$fresh" .driftline/kafka/libs
    printf '%s' "$wanted" >"$stamps/kafka"
fi

# 5. with `peers`: the tools that `driftline bench drift` compares with, each in an environment of its own ---------------
[ "${1:-}" = peers ] || exit 0
without=()
for lock in tests/bench/peers/*.lock; do
    peer=$(basename "$lock" .lock)
    there=.driftline/peers/$peer
    files=("$lock")
    wanted=$(content "$("$python" -c 'import sys; print(sys.version)')" "$PWD")
    if done_before "peer-$peer" "$wanted" && [ -x "$there/bin/python" ]; then continue; fi
    say "installing $peer into $there"
    pip_settings_to_uv
    if .venv/bin/uv venv -q --clear --python "$python" "$there" &&
        .venv/bin/uv pip install -q --python "$there/bin/python" --require-hashes -r "$lock"; then
        printf '%s' "$wanted" >"$stamps/peer-$peer"
    else
        rm -rf "$there"
        without+=("$peer")
    fi
done
[ ${#without[@]} -eq 0 ] || die "without ${without[*]}; the bench says so and measures the others"
