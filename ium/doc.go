// Package ium knows the processes of Windows' Isolated User Mode, trustlets: user mode of
// VTL1, which the normal kernel cannot read. It tells what makes an image one, what its
// policy allows, what its signature claims, and how the normal world starts it and talks
// to the secure kernel. It reads files and values on every system; it asks no Windows, and
// trusts no signature.
//
// # Images
//
// [Open] reads the headers of a PE image, and no more: parts are read when they are asked
// for. [Image.Policy] finds the policy and grades it:
//
//	absent     no section .tPolicy and no export for a policy: not a trustlet
//	valid      the policy is where it has to be, and breaks no rule
//	misplaced  no such section, no export that points into it, or an image of a kind
//	           that VTL1 does not run
//	malformed  the policy, or the image around it, breaks a rule, such as one that
//	           the secure kernel sees to when it creates a process
//
// Each reason names a rule, the offset in the file and what is there. A reason can be a
// note: worth knowing, but the grade is not from it. Besides there are
// [Image.Signatures], with [Image.Certificates] below, and [Image.Enclave] for VBS
// enclaves.
//
// # Policies
//
// A [Policy] is a trustlet's id and a list of entries with an id, a type and a value.
// [PolicyIDs] lists the ids with the types of their values, what they mean, where that
// stands, and whether it is inferred. [Judge] answers what a policy allows on a
// [Platform]: a model of the secure kernel's decision. [Trustlets] lists the known ones
// with the policy they are said to have, and [Trustlet.Compare] tells how one differs.
//
// # The normal world
//
// [CreateAttributes] and [ProcessAttribute] are what NtCreateUserProcess is given to
// create a trustlet, [EnclaveCreateInfo] what CreateEnclave is given. [SecureServices] and
// [SystemCalls] are the numbers of the secure kernel's services, which differ between
// builds of Windows; [CryptoOperation] and [IdentityKey] are what two of them take.
// [IsolatedUserMode] is SYSTEM_ISOLATED_USER_MODE_INFORMATION, and [EventProvider] logs
// which trustlets run.
//
// # Building
//
// [Policy.Encode] writes a policy as it is in memory, and [ImageSpec.Build] the smallest
// image around it, for tests.
//
// # Hostile input
//
// Files may hold anything. Nothing outside the file is read; what is wrong is a
// [FormatError] with its [Rule], or a reason; that a file cannot be read is an error of its
// reader, and never taken for something in the file. All of it can be used by several goroutines
// at once, if the reader can be. Limits, beyond which there is an error or a reason:
//
//	MaxSections              96 sections
//	MaxExports               65536 exports, whose names take no more bytes than the file
//	MaxExportName            4096 bytes of a name or a forwarder
//	MaxPolicyEntries         256 entries of a policy
//	MaxPolicyString          4096 characters of a string of a policy
//	MaxPolicyText            16 KiB of strings of a policy
//	MaxCertificates          64 certificates
//	MaxCertificateTableSize  4 MiB of certificates
//	MaxSignatures            32 signatures, MaxSignatureNesting 4 deep
//	MaxX509Size              32 KiB of a certificate that crypto/x509 parses
//	MaxX509Total             512 KiB of those of an image
//	MaxDigestSize            4 GiB of a file whose digest is computed
//	MaxEnclaveImports        1024 imports of an enclave
//	MaxCreateAttributes      136 bytes of creation attributes
//
// A finding has 64 reasons at most, an image 32 problems. To open an image of 2 MB with
// 2000 exports and 20000 relocations and read its policy takes some 25 µs from memory and
// 60 µs from a file, and allocates 22 KB (BenchmarkPolicy).
//
// # Sources
//
// PE images: Microsoft's PE Format specification, whose sections comments name; winnt.h
// of the Windows SDK 10.0.26100. Policies: the same winnt.h (IMAGE_POLICY_METADATA);
// Yosifovich, Ionescu, Russinovich, Solomon, Windows Internals, 7th edition, part 1,
// chapter 3; Ionescu, "Battle of SKM and IUM", Black Hat USA 2015; published disassembly
// of securekernel.exe. Creation, services and system calls: the headers of phnt and the
// lists that tables name row by row. What one source alone says, and what is inferred, is
// marked so.
package ium
