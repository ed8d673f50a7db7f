# edgebuild_settings(TARGET): what every target of ours is compiled with.
function(edgebuild_settings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE -Wno-restrict)  # False alarms on std::string's operator+ at -O3 (GCC 105651).
  endif()
  # 32-bit boards: files above 2 GiB, and inodes of more than 32 bits, which even stat() of a small file would refuse.
  target_compile_definitions(${target} PRIVATE _FILE_OFFSET_BITS=64)
  if(EDGEBUILD_WARNINGS_AS_ERRORS)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  # No path of the build machine in an artefact.
  target_compile_options(${target} PRIVATE "-ffile-prefix-map=${PROJECT_SOURCE_DIR}=." "-ffile-prefix-map=${PROJECT_BINARY_DIR}=.")
  if(EDGEBUILD_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${EDGEBUILD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=${EDGEBUILD_SANITIZE})
  endif()
endfunction()
