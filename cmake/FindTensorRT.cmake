# Finds TensorRT's headers; its libraries are opened at run time and none is linked.
#
# Looks in TENSORRT_ROOT (a CMake or environment variable: the folder, or its include/), then in the system's own folders.
# With EDGEBUILD_FETCH_TENSORRT_HEADERS they come from the public release (cmake/TensorRTHeaders.cmake), of the major in
# EDGEBUILD_TENSORRT_MAJOR.
#
#   TensorRT_FOUND  TensorRT_VERSION  TensorRT_VERSION_MAJOR
#   TensorRT::headers   the headers alone, in a folder of their own: /usr/include as a whole is no folder to compile
#                       another machine's program with
option(EDGEBUILD_FETCH_TENSORRT_HEADERS "Fetch TensorRT's public headers (Apache-2.0) if they are not here" OFF)
set(EDGEBUILD_TENSORRT_MAJOR 10 CACHE STRING "Major version of TensorRT whose headers are fetched")

set(_roots "")
foreach(_root IN ITEMS "${TENSORRT_ROOT}" "$ENV{TENSORRT_ROOT}")
  if(_root)
    list(APPEND _roots "${_root}/include" "${_root}")
  endif()
endforeach()
find_path(TensorRT_HEADERS_DIR NvInfer.h PATHS ${_roots} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
if(NOT TensorRT_HEADERS_DIR AND NOT _roots)
  find_path(TensorRT_HEADERS_DIR NvInfer.h
            PATHS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE} /usr/include/x86_64-linux-gnu /usr/include/aarch64-linux-gnu
                  /usr/include /usr/local/include
            NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
endif()
if(NOT TensorRT_HEADERS_DIR AND EDGEBUILD_FETCH_TENSORRT_HEADERS)
  include(TensorRTHeaders)
  set(_folder "${EDGEBUILD_THIRD_PARTY_DIR}/tensorrt-${EDGEBUILD_TENSORRT_MAJOR}")
  edgebuild_fetch_tensorrt_headers("${EDGEBUILD_TENSORRT_MAJOR}" "${_folder}")
  set(TensorRT_HEADERS_DIR "${_folder}/include" CACHE PATH "Folder with NvInfer.h" FORCE)
endif()
mark_as_advanced(TensorRT_HEADERS_DIR)

set(TensorRT_VERSION "")
if(TensorRT_HEADERS_DIR AND EXISTS "${TensorRT_HEADERS_DIR}/NvInferVersion.h")
  file(READ "${TensorRT_HEADERS_DIR}/NvInferVersion.h" _text)
  foreach(_part IN ITEMS MAJOR MINOR PATCH)
    # Plain numbers, or names that are defined as numbers above (from 10.14 on).
    if(_text MATCHES "define NV_TENSORRT_${_part} ([0-9]+)")
      set(TensorRT_VERSION_${_part} ${CMAKE_MATCH_1})
    elseif(_text MATCHES "define TRT_${_part}_ENTERPRISE ([0-9]+)")
      set(TensorRT_VERSION_${_part} ${CMAKE_MATCH_1})
    endif()
  endforeach()
  set(TensorRT_VERSION "${TensorRT_VERSION_MAJOR}.${TensorRT_VERSION_MINOR}.${TensorRT_VERSION_PATCH}")
endif()
set(TensorRT_PARSER_HEADER "")
if(TensorRT_HEADERS_DIR AND EXISTS "${TensorRT_HEADERS_DIR}/NvOnnxParser.h")
  set(TensorRT_PARSER_HEADER "${TensorRT_HEADERS_DIR}/NvOnnxParser.h")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_HEADERS_DIR TensorRT_PARSER_HEADER TensorRT_VERSION_MAJOR VERSION_VAR TensorRT_VERSION)

if(TensorRT_FOUND AND NOT TARGET TensorRT::headers)
  file(GLOB _headers "${TensorRT_HEADERS_DIR}/NvInfer*.h" "${TensorRT_HEADERS_DIR}/NvOnnx*.h")
  file(REMOVE_RECURSE "${CMAKE_BINARY_DIR}/tensorrt")
  file(COPY ${_headers} DESTINATION "${CMAKE_BINARY_DIR}/tensorrt/include")
  add_library(TensorRT::headers INTERFACE IMPORTED)
  target_include_directories(TensorRT::headers SYSTEM INTERFACE "${CMAKE_BINARY_DIR}/tensorrt/include")
endif()
