/* section.h - lists without a list: entries lie in a linker section, wherever they are written. */
#ifndef FLASHMLA_CORE_SECTION_H_
#define FLASHMLA_CORE_SECTION_H_

/* An entry. No symbol names it, so a linker that collects garbage has to be told to keep it. */
#if defined(__has_attribute)
#if __has_attribute(retain)
#define FM_IN_SECTION(name) __attribute__((used, retain, section(name)))
#endif
#endif
#ifndef FM_IN_SECTION
#define FM_IN_SECTION(name) __attribute__((used, section(name)))
#endif

/* Begin or end of a section, __start_NAME and __stop_NAME, which the linker makes. Hidden: lld would export them. */
#define FM_SECTION_EDGE __attribute__((visibility("hidden")))

#endif /* FLASHMLA_CORE_SECTION_H_ */
