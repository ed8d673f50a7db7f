# Cross-compiling with clang and lld from PATH and the GNU libraries of a sysroot, for any triple.
#
#   EDGEBUILD_TRIPLE     e.g. aarch64-linux-gnu
#   EDGEBUILD_SYSROOT    the board's headers and libraries with a libstdc++; empty: this machine's
#   EDGEBUILD_CPU_FLAGS  as clang spells them, e.g. -mcpu=cortex-a72
include("${CMAKE_CURRENT_LIST_DIR}/../sysroot.cmake")
set(CMAKE_C_COMPILER clang)
set(CMAKE_CXX_COMPILER clang++)
set(CMAKE_C_COMPILER_TARGET "${EDGEBUILD_TRIPLE}")
set(CMAKE_CXX_COMPILER_TARGET "${EDGEBUILD_TRIPLE}")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-static-libstdc++ -static-libgcc")
if(EDGEBUILD_SYSROOT)
  string(APPEND CMAKE_EXE_LINKER_FLAGS_INIT " -fuse-ld=lld")
endif()
