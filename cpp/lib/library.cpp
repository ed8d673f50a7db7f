// The shared library has no code of its own: all of it comes from the core. CMake wants a source for it.
