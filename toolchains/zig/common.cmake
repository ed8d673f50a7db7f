# Cross-compiling with zig's clang: one pip package, no sysroot, no root. A triple's file sets EDGEBUILD_ZIG_TRIPLE and
# CMAKE_SYSTEM_PROCESSOR and includes this one.
#
#   EDGEBUILD_ZIG        the zig binary itself (not `python -m ziglang`: a process more for every file)
#   EDGEBUILD_GLIBC      the oldest glibc that the result must run on, e.g. 2.28
#   EDGEBUILD_CPU_FLAGS  e.g. -mcpu=cortex_a72; empty: the architecture's baseline. Never -march=native.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EDGEBUILD_ZIG EDGEBUILD_GLIBC EDGEBUILD_CPU_FLAGS)

if(NOT EDGEBUILD_ZIG)
  set(EDGEBUILD_ZIG "$ENV{EDGEBUILD_ZIG}")
endif()
if(NOT EXISTS "${EDGEBUILD_ZIG}")
  message(FATAL_ERROR "EDGEBUILD_ZIG is '${EDGEBUILD_ZIG}', expected the path of a zig binary (pip install 'edgebuild[cross]')")
endif()
if(NOT EDGEBUILD_GLIBC)
  message(FATAL_ERROR "EDGEBUILD_GLIBC is not set, expected the oldest glibc of the target's OS, e.g. 2.28")
endif()
separate_arguments(_cpu_flags UNIX_COMMAND "${EDGEBUILD_CPU_FLAGS}")
# -s is an argument of the compiler itself, so that CMake's first trials have it too: zig compiles its C++ library with and without
# debugging information, as a program is linked, and the second one would take a minute and be used by those trials alone.
set(_target -target ${EDGEBUILD_ZIG_TRIPLE}.${EDGEBUILD_GLIBC} ${_cpu_flags} -s)

set(CMAKE_C_COMPILER "${EDGEBUILD_ZIG}" cc ${_target})
set(CMAKE_CXX_COMPILER "${EDGEBUILD_ZIG}" c++ ${_target})
# zig's own archiver; CMake wants AR as a single word, so the rules are spelled out.
foreach(_language IN ITEMS C CXX)
  set(CMAKE_${_language}_ARCHIVE_CREATE "\"${EDGEBUILD_ZIG}\" ar qc <TARGET> <OBJECTS>")
  set(CMAKE_${_language}_ARCHIVE_APPEND "\"${EDGEBUILD_ZIG}\" ar q <TARGET> <OBJECTS>")
  set(CMAKE_${_language}_ARCHIVE_FINISH "\"${EDGEBUILD_ZIG}\" ranlib <TARGET>")
endforeach()

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
