# fathom_embed_kernels(TARGET) puts the text of kernels/**/*.cuh into TARGET, as jit::embedded_headers().
# The files are found rather than listed: a header that is in the folder but not in the library would compile in no test.
function(fathom_embed_kernels target)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/*.cuh")
  set(output "${PROJECT_BINARY_DIR}/generated/embedded_headers.cpp")
  set(script "${PROJECT_SOURCE_DIR}/cmake/embed_kernels.cmake")
  add_custom_command(OUTPUT "${output}" COMMAND "${CMAKE_COMMAND}" "-DROOT=${PROJECT_SOURCE_DIR}/kernels"
                     "-DOUTPUT=${output}" -P "${script}" DEPENDS ${files} "${script}" VERBATIM)
  target_sources(${target} PRIVATE "${output}")
endfunction()
