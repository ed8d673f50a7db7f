// The GNU C++ library asks this variable of a C library from 2.32 on whether it may spare atomic operations. With an
// answer of its own ("no") the plugin also loads where the C library is older. The version script keeps it inside.

extern "C" {
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}
