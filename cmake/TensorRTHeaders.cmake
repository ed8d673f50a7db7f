# edgebuild_fetch_tensorrt_headers(MAJOR FOLDER): TensorRT's public headers, each pinned by its SHA-256, into FOLDER/include,
# and their licence (Apache-2.0) beside them. Also a script, which is what `edgebuild doctor --fetch` runs:
#
#   cmake -DEDGEBUILD_TENSORRT_MAJOR=10 -DEDGEBUILD_TENSORRT_HEADERS=FOLDER -P cmake/TensorRTHeaders.cmake
#
# The oldest release of a major that a target has: a plugin compiled against it runs with every later one of that major.
# EDGEBUILD_TENSORRT_HEADERS_URL names a mirror of NVIDIA/TensorRT with the same COMMIT/PATH layout, also as file://.
set(EDGEBUILD_TENSORRT_HEADERS_URL "https://raw.githubusercontent.com/NVIDIA/TensorRT" CACHE STRING
    "Where TensorRT's public headers are fetched from, on request")

# 10.3.0, JetPack 6's; its ONNX parser's header first came with 10.14, and begins with the same entries in all of them.
set(_edgebuild_tensorrt_10
  c5b9de37f7ef9034e2efc621c664145c7c12436e LICENSE a2e8c3a5e4c0ac130fe5ef066e39909aae35f618d01faad895977aebd7d6a52e
  c5b9de37f7ef9034e2efc621c664145c7c12436e include/NvInfer.h dcb76542689a8e2b3575f2e92105f3fda8251e6de8251d956ece20a7c39c4ae1
  c5b9de37f7ef9034e2efc621c664145c7c12436e include/NvInferImpl.h a087b95461cefbb7cd5f0c068a205fe845fe1f47ced4710d3b3e8a8fbcac1ef8
  c5b9de37f7ef9034e2efc621c664145c7c12436e include/NvInferLegacyDims.h e750b4ff4bb726a2ecddef9ced01ec4ee23eedddb77c433d98b558b471db6ebe
  c5b9de37f7ef9034e2efc621c664145c7c12436e include/NvInferRuntime.h 397a64510a7a3fdf2b77bf63f9a3d137d028c6181c76b8932d39a9ba938b5e07
  c5b9de37f7ef9034e2efc621c664145c7c12436e include/NvInferRuntimeBase.h d7a6dc0c2e9e755f91db8fe6811ee9f871375bd745aca7ffc5d540d14cc369db
  c5b9de37f7ef9034e2efc621c664145c7c12436e include/NvInferRuntimeCommon.h 75447ea65eb575ed92e98096b11b3e39d6e2a15fec65f85da9fd6f163c250370
  c5b9de37f7ef9034e2efc621c664145c7c12436e include/NvInferRuntimePlugin.h 6776cd7e27fc4437f64f116352541fc396999a7363b0eaf6fb5d80513653d149
  c5b9de37f7ef9034e2efc621c664145c7c12436e include/NvInferVersion.h 54f35bf74a8837581fbcab8cfe0e35c7730be76a8cb2095b0a6f180457221c1d
  3b4ddc1d45f11167f2ea53dc6046bba8df800e2d include/NvOnnxParser.h ac4dcba5f081625581f75b61db2c80104f22d2c4198a6bb79c69cc2af8daf3b3)
# 11.0.
set(_edgebuild_tensorrt_11
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 LICENSE 0f219bd1fa873d902c77fb971c0d0319c382aacbeb36c226b8b0b44ece2cd732
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInfer.h 69d02b131949137035ccd86f7a20d2d235e6946972763daea3bcf7c7bff455ed
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInferImpl.h 666efdb76bf9d0e8160e06010a89756f507d93a416bdb5f96a9a4f2a6caa9ded
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInferLegacyDims.h 3e10fe5b85545f2e956e6935271badf0b1c72553b698000a61d46d69c5d53030
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInferPluginBase.h 759f354754e64bf4d1e68d7df796c155c46f8a27541bf1912ba13e79a5a26fc2
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInferRuntime.h 1a0692924bb6b28b9662fdfd58c09e911b06bcbfbba1915514d67daa5406058e
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInferRuntimeBase.h ec38759dbf8a5538c4cd30890f1764658bc2dcec87e95ac18148e476cbe1671b
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInferRuntimeCommon.h eff4c0251cb4813bbc7fe34c6b28fdb6c08734c27ae53b07974d2557bf1431be
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInferRuntimePlugin.h d4db4236da9c03e543949247a75478b5ce68fc84eb30cd15b35081b94c8d8391
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvInferVersion.h 7b022dfc68a640230c07adbb6a40437d1549583e06c1f919cedea207f2d04ef5
  771d8efdf7f9d7b1eeb0864eb05d4dd8a7755bb5 include/NvOnnxParser.h 3c3766d0d9ee5c43887f404513243c376cdb9bf97bde29920a01e71e7e19239f)

function(edgebuild_fetch_tensorrt_headers major folder)
  if(NOT DEFINED _edgebuild_tensorrt_${major})
    message(FATAL_ERROR "edgebuild knows the headers of TensorRT 10 and 11, not ${major}")
  endif()
  set(left ${_edgebuild_tensorrt_${major}})
  while(left)
    list(POP_FRONT left commit path hash)
    set(file "${folder}/${path}")
    if(EXISTS "${file}")
      file(SHA256 "${file}" found)
      if(found STREQUAL hash)
        continue()
      endif()
    endif()
    # Beside its name first: a download that ends halfway must not look like a header.
    file(DOWNLOAD "${EDGEBUILD_TENSORRT_HEADERS_URL}/${commit}/${path}" "${file}.part" STATUS status TIMEOUT 120)
    list(GET status 0 code)
    if(code EQUAL 0)
      file(SHA256 "${file}.part" found)
      if(NOT found STREQUAL hash)
        file(REMOVE "${file}.part")
        message(FATAL_ERROR "TensorRT's ${path} has SHA-256 ${found}, expected ${hash}")
      endif()
      file(RENAME "${file}.part" "${file}")
    else()
      list(GET status 1 reason)
      file(REMOVE "${file}.part")
      message(FATAL_ERROR "TensorRT's ${path} could not be fetched from ${EDGEBUILD_TENSORRT_HEADERS_URL}: ${reason}")
    endif()
  endwhile()
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  edgebuild_fetch_tensorrt_headers("${EDGEBUILD_TENSORRT_MAJOR}" "${EDGEBUILD_TENSORRT_HEADERS}")
endif()
