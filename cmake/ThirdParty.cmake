# Headers that are fetched, never committed: nlohmann-json, CLI11, doctest, stb_image, the ONNX Runtime C API.
#
# Order: what EDGEBUILD_THIRD_PARTY_DIR already holds (a wheel carries them); apt, without root, from the machine's own
# mirror; else the projects' repositories at pinned commits.
set(_edgebuild_headers
    nlohmann/json.hpp
    CLI/CLI.hpp
    doctest/doctest.h
    stb/stb_image.h
    onnxruntime/onnxruntime_c_api.h)

function(_edgebuild_missing_headers result)
  set(missing "")
  foreach(header IN LISTS _edgebuild_headers)
    if(NOT EXISTS "${EDGEBUILD_THIRD_PARTY_DIR}/include/${header}")
      list(APPEND missing ${header})
    endif()
  endforeach()
  set(${result} "${missing}" PARENT_SCOPE)
endfunction()

_edgebuild_missing_headers(_missing)
if(_missing)
  message(STATUS "Fetching third-party headers into ${EDGEBUILD_THIRD_PARTY_DIR}")
  execute_process(COMMAND sh "${CMAKE_CURRENT_LIST_DIR}/third_party.sh" "${EDGEBUILD_THIRD_PARTY_DIR}"
                  RESULT_VARIABLE _apt_failed ERROR_VARIABLE _apt_error)
  if(_apt_failed)
    message(STATUS "  not through apt: ${_apt_error}")
    include(ThirdPartyGit)
  endif()
  _edgebuild_missing_headers(_missing)
  if(_missing)
    message(FATAL_ERROR
      "edgebuild needs these headers and could not fetch them: ${_missing}\n"
      "Put them under a folder's include/ and pass -DEDGEBUILD_THIRD_PARTY_DIR=FOLDER, or make a Debian mirror or the "
      "projects' git repositories reachable.")
  endif()
endif()

add_library(edgebuild_third_party INTERFACE)
target_include_directories(edgebuild_third_party SYSTEM INTERFACE "${EDGEBUILD_THIRD_PARTY_DIR}/include")
