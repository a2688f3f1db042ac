# Writes OUTPUT, the source that names the commit of SOURCE; run at every build, it touches OUTPUT only if the
# commit has changed. An archive without .git has none, also inside of another repository.
set(commit "unknown")
if(EXISTS "${SOURCE}/.git")
  execute_process(COMMAND git --no-optional-locks -C "${SOURCE}" describe --always --dirty
                  OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(NOT failed AND described MATCHES "^[A-Za-z0-9._/+-]+$")
    set(commit "${described}")
  endif()
endif()
configure_file("${CMAKE_CURRENT_LIST_DIR}/commit.cpp.in" "${OUTPUT}" @ONLY)
