# The headers from their projects' own repositories, for machines without apt. Included by ThirdParty.cmake.
#
# Each is pinned by commit, so git itself checks the content; a commit is fetched alone, without its history. ONNX Runtime is
# large and one header is wanted: it is fetched without file contents, and the header is pinned by its SHA-256.
find_package(Git REQUIRED)

function(_edgebuild_fetch_headers name url commit)
  cmake_parse_arguments(ARG "" "SHA256" "FROM;TO;LICENCE" ${ARGN})
  set(checkout "${EDGEBUILD_THIRD_PARTY_DIR}/.git-${name}")
  file(REMOVE_RECURSE "${checkout}")
  file(MAKE_DIRECTORY "${checkout}")
  foreach(arguments IN ITEMS "init;--quiet" "fetch;--quiet;--depth;1;--filter=blob:none;${url};${commit}")
    execute_process(COMMAND "${GIT_EXECUTABLE}" ${arguments} WORKING_DIRECTORY "${checkout}" RESULT_VARIABLE failed ERROR_VARIABLE error)
    if(failed)
      message(WARNING "could not fetch ${name} from ${url}: ${error}")
      return()
    endif()
  endforeach()
  # A partial clone asks the remote for the blobs that a checkout needs.
  execute_process(COMMAND "${GIT_EXECUTABLE}" remote add origin "${url}" WORKING_DIRECTORY "${checkout}")
  execute_process(COMMAND "${GIT_EXECUTABLE}" config remote.origin.promisor true WORKING_DIRECTORY "${checkout}")
  execute_process(COMMAND "${GIT_EXECUTABLE}" checkout --quiet FETCH_HEAD -- ${ARG_FROM} ${ARG_LICENCE}
                  WORKING_DIRECTORY "${checkout}" RESULT_VARIABLE failed ERROR_VARIABLE error)
  if(failed)
    message(WARNING "could not check out ${name}: ${error}")
    return()
  endif()
  if(ARG_SHA256)
    file(SHA256 "${checkout}/${ARG_FROM}" found)
    if(NOT found STREQUAL ARG_SHA256)
      message(FATAL_ERROR "${name}: ${ARG_FROM} has SHA-256 ${found}, expected ${ARG_SHA256}")
    endif()
  endif()
  file(COPY "${checkout}/${ARG_FROM}" DESTINATION "${EDGEBUILD_THIRD_PARTY_DIR}/include/${ARG_TO}")
  configure_file("${checkout}/${ARG_LICENCE}" "${EDGEBUILD_THIRD_PARTY_DIR}/licenses/${name}.txt" COPYONLY)
  file(REMOVE_RECURSE "${checkout}")
endfunction()

_edgebuild_fetch_headers(nlohmann-json https://github.com/nlohmann/json.git 9cca280a4d0ccf0c08f47a99aa71d1b0e52f8d03
                         FROM include/nlohmann TO "" LICENCE LICENSE.MIT)
_edgebuild_fetch_headers(cli11 https://github.com/CLIUtils/CLI11.git f4d0731cebb123ff0ace712c099dffbcd2c58e5a
                         FROM include/CLI TO "" LICENCE LICENSE)
_edgebuild_fetch_headers(doctest https://github.com/doctest/doctest.git ae7a13539fb71f270b87eb2e874fbac80bc8dda2
                         FROM doctest/doctest.h TO doctest LICENCE LICENSE.txt)
_edgebuild_fetch_headers(stb https://github.com/nothings/stb.git 5c205738c191bcb0abc65c4febfa9bd25ff35234
                         FROM stb_image.h TO stb LICENCE LICENSE)
_edgebuild_fetch_headers(onnxruntime https://github.com/microsoft/onnxruntime.git refs/tags/v1.21.0
                         FROM include/onnxruntime/core/session/onnxruntime_c_api.h TO onnxruntime LICENCE LICENSE
                         SHA256 7783e9664bdb0b1b36145b5c8587dd1bc9a399aa000edf2e3dd03003cafc6882)
