# Installs the library, its headers and a package that find_package(fathom) reads.
include(CMakePackageConfigHelpers)
install(TARGETS fathom EXPORT fathom FILE_SET HEADERS)
install(EXPORT fathom NAMESPACE fathom:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fathom FILE fathom-targets.cmake)
configure_package_config_file(cmake/fathom-config.cmake.in fathom-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fathom)
write_basic_package_version_file(fathom-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/fathom-config.cmake" "${CMAKE_CURRENT_BINARY_DIR}/fathom-config-version.cmake"
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fathom)
