# AArch64 from another machine: Debian's cross compiler, the libraries that scripts/setup.sh arm unpacks, and an emulator for the tests.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)

cmake_path(SET arm_root NORMALIZE "${CMAKE_CURRENT_LIST_DIR}/../build-arm-root")
set(arm_libraries ${arm_root}/usr/lib/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH ${arm_root})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(ENV{PKG_CONFIG_LIBDIR} ${arm_libraries}/pkgconfig)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${arm_root})
# libraries of libraries
set(CMAKE_EXE_LINKER_FLAGS_INIT -Wl,-rpath-link,${arm_libraries}:${arm_root}/lib/aarch64-linux-gnu)
set(CMAKE_SHARED_LINKER_FLAGS_INIT ${CMAKE_EXE_LINKER_FLAGS_INIT})
# every instruction that it knows; programs of this machine stay programs of this machine
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu max -L ${arm_root})
