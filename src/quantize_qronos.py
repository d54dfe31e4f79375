from ditq.cli.quantize_qronos import main

if __name__ == "__main__":
    main()
