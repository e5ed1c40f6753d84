#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Does an atomic addition of 0 store? It matters where a page is to be made dirty without changing it.
#
# A page freed lazily (MADV_FREE) stays if it was stored to since, and goes under reclaim if it was not. The program
# adds 0 to a word of such a page, ignores what was there, and has the page reclaimed (MADV_PAGEOUT). Compiled by gcc at
# -O2 the addition is a locked add to that word: the page stays. Clang at -O2 knows that it changes nothing and makes a
# fence of it, a locked instruction on the stack: nothing is stored to the page, and it is gone, without an error. At
# -O0 clang stores. With a 0 that the compiler can't see (volatile) both store at -O2.
#
# Seen on x86-64, Linux 6.18, gcc 12.2 and clang 18.1.6 (of ziglang 0.13.0 from PyPI):
#   gcc -O2: kept, clang -O0: kept, clang -O2: gone, clang -O2 with a volatile 0: kept
set -euo pipefail

python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/page.c" <<'C'
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#ifndef NOTHING
#define NOTHING 0
#endif

int main(void) {
    enum { SIZE = 64 * 4096 };
    unsigned char *memory =
        mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || madvise(memory, SIZE, MADV_NOHUGEPAGE))
        return 2;
    memset(memory, 7, SIZE);
    if (madvise(memory, SIZE, MADV_FREE))
        return 2;
    for (int at = 0; at < SIZE; at += 4096)
        atomic_fetch_add((_Atomic unsigned long *)(memory + at), NOTHING);
    int kept = 0;
    for (int attempt = 0; attempt < 5; attempt++)
        if (madvise(memory, SIZE, MADV_PAGEOUT))
            return 2;
    for (int at = 0; at < SIZE; at += 4096)
        kept += memory[at + 8] == 7;
    puts(kept == 64 ? "kept" : kept == 0 ? "gone" : "some are gone");
    return 0;
}
C

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ziglang==0.13.0
export ZIG_GLOBAL_CACHE_DIR=$folder/cache ZIG_LOCAL_CACHE_DIR=$folder/cache
clang() { "$folder/venv/bin/python" -m ziglang cc -fno-sanitize=undefined "$@"; }

found() { # NAME COMPILER [OPTION...]
  local name=$1
  shift
  "$@" "$folder/page.c" -o "$folder/program"
  printf '%s: %s\n' "$name" "$("$folder/program")"
}

{
  found 'gcc -O2' gcc -O2
  found 'clang -O0' clang -O0
  found 'clang -O2' clang -O2
  found 'clang -O2, volatile 0' clang -O2 '-DNOTHING=*(volatile unsigned long *)&(unsigned long){0}'
} | tee "$folder/found"

diff - "$folder/found" <<'EXPECTED'
gcc -O2: kept
clang -O0: kept
clang -O2: gone
clang -O2, volatile 0: kept
EXPECTED
