# Cross-compiling with GCC: TRIPLE-gcc and TRIPLE-g++ on PATH, for any triple.
#
#   EDGEBUILD_TRIPLE     e.g. aarch64-linux-gnu
#   EDGEBUILD_SYSROOT    the board's headers and libraries; empty: the compiler's own
#   EDGEBUILD_CPU_FLAGS  as GCC spells them, e.g. -mcpu=cortex-a72
include("${CMAKE_CURRENT_LIST_DIR}/../sysroot.cmake")
set(CMAKE_C_COMPILER "${EDGEBUILD_TRIPLE}-gcc")
set(CMAKE_CXX_COMPILER "${EDGEBUILD_TRIPLE}-g++")
# The board's libstdc++ may be older than the compiler's.
set(CMAKE_EXE_LINKER_FLAGS_INIT "-static-libstdc++ -static-libgcc")
