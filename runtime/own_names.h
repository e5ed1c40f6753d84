/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Before every file of this library (-include): a call means the function that is written there.
 *
 * libc's headers give other names to its functions, by the standard that is compiled for (`__isoc23_strtol`
 * since glibc 2.38), by how much is checked (`__memcpy_chk`) and by the size of a time or an offset
 * (`mmap64`, `__clock_gettime64`). This library stands for libc itself (freestanding.c), and has none of those.
 */
#ifndef __ASSEMBLER__ /* entry.S comes through here too */

/* However they came to be defined: by the compiler, on its command line, or past the command line (-Wp,). */
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS
#undef _TIME_BITS
#define _FORTIFY_SOURCE 0 /* and not by us: the compiler has a default on some distributions */

#include <features.h>
#include <sys/cdefs.h>

/* All other names are given by these, in every version of glibc. */
#undef __REDIRECT
#undef __REDIRECT_NTH
#undef __REDIRECT_NTHNL
#undef __REDIRECT_FORTIFY
#undef __REDIRECT_FORTIFY_NTH
#define __REDIRECT(name, parameters, other) name parameters
#define __REDIRECT_NTH(name, parameters, other) name parameters __THROW
#define __REDIRECT_NTHNL(name, parameters, other) name parameters __THROWNL
#define __REDIRECT_FORTIFY __REDIRECT
#define __REDIRECT_FORTIFY_NTH __REDIRECT_NTH

#endif
