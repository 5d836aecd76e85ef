# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What the scripts beside it share. To be sourced, not run. What they are doing goes
# to standard error, results go to standard output.

root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/..")
readonly root
# shellcheck disable=SC2034 # for the scripts that source this
readonly cache=${TORPOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/torpor}
readonly minimal_rust=1.95
me=$(basename "$0")
readonly me

say() { printf '%s: %s\n' "$me" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# Seconds and tenths since $1, a value of $EPOCHREALTIME.
since() {
    local micros=$((${EPOCHREALTIME/./} - ${1/./}))
    printf '%d.%d' $((micros / 1000000)) $((micros / 100000 % 10))
}

# step WHAT COMMAND...: runs it with its output kept in a log, says how long it took,
# and shows the log's end only where it fails.
step() {
    local what=$1 start=$EPOCHREALTIME log ticker='' status=0
    shift
    log=$(mktemp "${TMPDIR:-/tmp}/torpor-step.XXXXXX")
    if [[ -t 2 ]]; then
        (while sleep 1; do printf '\r  ...   %-44s %6s s ' "$what" "$(since "$start")" >&2; done) &
        ticker=$!
    fi
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [[ -n $ticker ]]; then
        kill "$ticker" 2>/dev/null || true
        wait "$ticker" 2>/dev/null || true
        printf '\r\033[K' >&2
    fi
    if ((status != 0)); then
        printf '  FAIL  %-44s %6s s\n' "$what" "$(since "$start")" >&2
        tail -n 60 "$log" >&2
        rm -f "$log"
        return "$status"
    fi
    printf '  ok    %-44s %6s s\n' "$what" "$(since "$start")" >&2
    rm -f "$log"
}

# Nothing here makes sense without KVM: stop before anything is installed or built.
need_kvm() {
    [[ -e /dev/kvm ]] || die "there is no /dev/kvm. Torpor runs programs in KVM microVMs and can't do without.
    On real hardware load kvm_intel or kvm_amd (and switch virtualization on in the firmware);
    in a virtual machine its host has to allow nested virtualization, or offer KVM without it (kvm_pvm)."
    (: <>/dev/kvm) 2>/dev/null || die "/dev/kvm is there, but $(id -un) can't open it.
    Be root, or join the group that owns it: usermod -aG kvm $(id -un)"
}

need_rust() {
    local have
    command -v cargo >/dev/null || die "no Rust toolchain: install Rust $minimal_rust or newer, see https://rustup.rs"
    have=$(rustc --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$minimal_rust" "$have" | sort -V | head -n1) == "$minimal_rust" ]] ||
        die "Rust $have is too old, $minimal_rust or newer is needed"
}

# Installs those Debian packages that are missing.
ensure_packages() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || die "packages are missing; as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    mkdir -p "$cache"
    # One at a time: scripts run side by side, and apt-get does not wait for another's update. Its output is no result of ours.
    (
        flock 9
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
    ) 9>"$cache/apt.lock" >&2
}

# Installs a tool from crates.io unless it is there.
ensure_cargo_tool() {
    command -v "$1" >/dev/null || [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/$1 ]] && return 0
    say "installing $1 with cargo, which takes some minutes once"
    cargo install --locked --quiet "$1"
}

# Makes kernel and images (or takes those of an earlier time) and leaves links to them in
# the folder $1: vmlinux, images/python.erofs, images/exec.erofs.
guest_files() {
    local into=$1 runtime path
    mkdir -p "$into/images"
    path=$("$root/scripts/build-kernel") || return 1
    ln -sfn "$path" "$into/vmlinux"
    for runtime in python exec; do
        path=$("$root/scripts/build-rootfs" "$runtime") || return 1
        ln -sfn "$path" "$into/images/$runtime.erofs"
    done
}
