# LibTorch as the torch package carries it: headers under include/, libraries under lib/.
#
# Looked for in EDGEBUILD_LIBTORCH_ROOT, else in the folder that Torch_DIR lies in (…/torch/share/cmake/Torch, as
# `python -c "import torch; print(torch.utils.cmake_prefix_path)"` leads to). Torch's own package file is not used: it
# searches for SDKs that it was built with and that a program which only loads models does not need.
#
#   LibTorch::LibTorch   headers (as system headers) and the CPU libraries
#   LibTorch_VERSION, LibTorch_LIBRARY_DIR; LibTorch_REASON if it was not found
set(EDGEBUILD_LIBTORCH_ROOT "" CACHE PATH "Folder of LibTorch, with include/ and lib/; empty: that of Torch_DIR")
set(LibTorch_FOUND FALSE)
set(_libtorch_root "${EDGEBUILD_LIBTORCH_ROOT}")
if(NOT _libtorch_root AND Torch_DIR)
  get_filename_component(_libtorch_root "${Torch_DIR}/../../.." ABSOLUTE)
endif()
if(NOT _libtorch_root)
  set(LibTorch_REASON "no LibTorch was given (-DEDGEBUILD_LIBTORCH_ROOT=FOLDER or -DTorch_DIR=FOLDER)")
  return()
endif()

set(LibTorch_LIBRARY_DIR "${_libtorch_root}/lib")
set(_libtorch_version_file "${_libtorch_root}/include/torch/headeronly/version.h")
if(NOT EXISTS "${_libtorch_version_file}")  # Before 2.10.
  set(_libtorch_version_file "${_libtorch_root}/include/torch/csrc/api/include/torch/version.h")
endif()
foreach(_libtorch_file IN ITEMS "${_libtorch_version_file}" "${LibTorch_LIBRARY_DIR}/libtorch_cpu.so" "${LibTorch_LIBRARY_DIR}/libc10.so")
  if(NOT EXISTS "${_libtorch_file}")
    set(LibTorch_REASON "${_libtorch_root} is no LibTorch: it has no ${_libtorch_file}")
    return()
  endif()
endforeach()
foreach(_libtorch_part IN ITEMS MAJOR MINOR PATCH)
  file(STRINGS "${_libtorch_version_file}" _libtorch_line REGEX "#define TORCH_VERSION_${_libtorch_part} ")
  string(REGEX REPLACE ".* " "" _libtorch_${_libtorch_part} "${_libtorch_line}")
endforeach()
set(LibTorch_VERSION "${_libtorch_MAJOR}.${_libtorch_MINOR}.${_libtorch_PATCH}")

if(NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED GLOBAL)
  set_target_properties(LibTorch::LibTorch PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_libtorch_root}/include;${_libtorch_root}/include/torch/csrc/api/include"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${_libtorch_root}/include;${_libtorch_root}/include/torch/csrc/api/include"
    INTERFACE_LINK_LIBRARIES "${LibTorch_LIBRARY_DIR}/libtorch_cpu.so;${LibTorch_LIBRARY_DIR}/libc10.so")
endif()
set(LibTorch_FOUND TRUE)
