// EDGEBUILD_API marks what libedgebuild.so exports; everything else in it is hidden.

#ifndef EDGEBUILD_EXPORT_H_
#define EDGEBUILD_EXPORT_H_

#if defined(__cplusplus)
#define EDGEBUILD_API [[gnu::visibility("default")]]  // May stand beside other attributes, also on a class.
#elif defined(__GNUC__)
#define EDGEBUILD_API __attribute__((visibility("default")))
#else
#define EDGEBUILD_API
#endif

#endif  // EDGEBUILD_EXPORT_H_
