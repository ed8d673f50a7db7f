# add_backend(NAME QUERY FILE SOURCES ... [LIBRARIES ...]): a backend in both its forms.
#
# The file that defines the query function is compiled for each form, because the function's name differs; the rest once.
#
#   edgebuild_backend_NAME          static; its query function is edgebuild_backend_query_NAME
#   edgebuild_backend_NAME_plugin   shared, lib/libedgebuild_NAME.so; exports edgebuild_backend_query alone
function(add_backend name)
  cmake_parse_arguments(ARG "" "QUERY" "SOURCES;LIBRARIES" ${ARGN})
  set(objects edgebuild_backend_${name}_objects)
  add_library(${objects} OBJECT ${ARG_SOURCES})
  foreach(form IN ITEMS static plugin)
    if(form STREQUAL static)
      set(target edgebuild_backend_${name})
      add_library(${target} STATIC ${ARG_QUERY} $<TARGET_OBJECTS:${objects}>)
      target_compile_definitions(${target} PRIVATE EDGEBUILD_BACKEND_QUERY=edgebuild_backend_query_${name})
    else()
      set(target edgebuild_backend_${name}_plugin)
      add_library(${target} MODULE ${ARG_QUERY} $<TARGET_OBJECTS:${objects}>)
      target_compile_definitions(${target} PRIVATE EDGEBUILD_BACKEND_QUERY=edgebuild_backend_query)
      set_target_properties(${target} PROPERTIES PREFIX lib OUTPUT_NAME edgebuild_${name})
      # Templates of the C++ library have default visibility: only the linker can keep them in.
      target_link_options(${target} PRIVATE "LINKER:--version-script=${PROJECT_SOURCE_DIR}/cmake/plugin.map")
      set_target_properties(${target} PROPERTIES LINK_DEPENDS "${PROJECT_SOURCE_DIR}/cmake/plugin.map")
    endif()
  endforeach()
  foreach(target IN ITEMS ${objects} edgebuild_backend_${name} edgebuild_backend_${name}_plugin)
    target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/cpp/include" "${PROJECT_SOURCE_DIR}/cpp/backends")
    target_compile_definitions(${target} PRIVATE EDGEBUILD_VERSION="${PROJECT_VERSION}")
    target_link_libraries(${target} PRIVATE ${ARG_LIBRARIES} ${CMAKE_DL_LIBS})
    edgebuild_settings(${target})
  endforeach()
endfunction()
